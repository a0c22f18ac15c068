// The pure functions of the upload field: `node --test tests/js`.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

const source = readFileSync(new URL("../../pifi_probe/widgets/upload.js", import.meta.url), "utf8");
const { pieces, refusal } = await import(`data:text/javascript;base64,${Buffer.from(source).toString("base64")}`);

test("pieces cover a file once, in order", () => {
  assert.deepEqual(pieces(0), [[0, 0]]);
  assert.deepEqual(pieces(5, 5), [[0, 5]]);
  assert.deepEqual(pieces(11, 5), [[0, 5], [5, 10], [10, 11]]);
});

test("a file that is not a table, or is too large, is refused by name", () => {
  const ends = ".csv,.jsonl";
  assert.equal(refusal({ name: "A.CSV", size: 5 }, 5, ends), "");
  assert.match(refusal({ name: "a.png", size: 5 }, 5, ends), /^a\.png: the upload is not a table/);
  assert.match(refusal({ name: "a.csv", size: 3 << 20 }, 2 << 20, ends), /has 3 MB; at most 2 MB/);
});

test("nothing is fetched, and nothing is shown as markup", () => {
  assert.doesNotMatch(source, /innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|https?:|\bfetch\(/);
});
