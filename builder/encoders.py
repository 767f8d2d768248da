"""The tokenizers of the text encoders that prompts are written for, pinned by hash. Knows no network."""

from collections.abc import Mapping

from builder.listing import Digest, File, Listing

#: by the folder in which the worker looks for it. SDXL's first text encoder is OpenAI's CLIP ViT-L/14, whose vocabulary
#: (MIT) its repository contains; Wan 2.1 uses the tokenizer.json of google/umt5-xxl, which its repository contains.
ENCODERS: Mapping[str, Listing] = {
    "clip": Listing(
        "stabilityai/stable-diffusion-xl-base-1.0",
        "462165984030d82259a11f4367a4eed129e94a7b",
        "mit",
        (
            File(
                "vocab.json",
                1_059_962,
                Digest("sha256", "e089ad92ba36837a0d31433e555c8f45fe601ab5c221d4f607ded32d9f7a4349"),
                origin="tokenizer/vocab.json",
            ),
            File(
                "merges.txt",
                524_619,
                Digest("sha256", "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a"),
                origin="tokenizer/merges.txt",
            ),
        ),
    ),
    "umt5": Listing(
        "Wan-AI/Wan2.1-T2V-1.3B",
        "37ec512624d61f7aa208f7ea8140a131f93afc9a",
        "apache-2.0",
        (
            File(
                "tokenizer.json",
                16_837_417,
                Digest("sha256", "6e197b4d3dbd71da14b4eb255f4fa91c9c1f2068b20a2de2472967ca3d22602b"),
                origin="google/umt5-xxl/tokenizer.json",
            ),
        ),
    ),
}
