// A file that goes to Python in pieces: a notebook's connection breaks off at a message above 10 MB.

export const PIECE = 1 << 20;

/** Where the pieces of a file begin and end; an empty file has one. */
export function pieces(size, piece = PIECE) {
  const found = [[0, Math.min(size, piece)]];
  for (let from = piece; from < size; from += piece) found.push([from, Math.min(from + piece, size)]);
  return found;
}

/** Why a file is not sent; empty where it is. */
export function refusal({ name, size }, most, accept) {
  if (!accept.split(",").some((end) => name.toLowerCase().endsWith(end))) {
    return `${name}: the upload is not a table; upload one of ${accept.replaceAll(",", ", ")}`;
  }
  if (size <= most) return "";
  return `${name} has ${Math.ceil(size / 2 ** 20)} MB; at most ${most >> 20} MB are accepted: write its path into Task`;
}

function render({ model, el }) {
  const input = document.createElement("input");
  Object.assign(input, { type: "file", accept: model.get("accept") });
  const note = document.createElement("span");
  note.setAttribute("role", "status");
  const label = document.createElement("label");
  label.append("Upload ", input);
  el.classList.add("pp-upload");
  el.append(label, note);

  const draw = () => {
    input.disabled = model.get("disabled");
    note.textContent = model.get("note");
  };
  input.addEventListener("change", async () => {
    const [file] = input.files;
    if (!file) return;
    const refused = refusal(file, model.get("most"), model.get("accept"));
    note.textContent = refused || `${file.name} …`;
    if (refused) return;
    try {
      for (const [from, to] of pieces(file.size)) {
        const content = await file.slice(from, to).arrayBuffer();
        model.send({ kind: "piece", name: file.name, from, size: file.size }, undefined, [content]);
      }
    } catch (error) { // it was removed, or may not be read
      note.textContent = `${file.name}: ${error.message}`;
    }
    input.value = ""; // so that the same file can be chosen again
  });
  for (const name of ["disabled", "note"]) model.on(`change:${name}`, draw);
  draw();
}

export default { render };
