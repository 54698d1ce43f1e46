"""Packaging of vit_jax. Lint, format and test settings are in pyproject.toml."""

import pathlib

import setuptools

ROOT = pathlib.Path(__file__).parent

CORE = [
    "absl-py",
    "array-record>=0.8",
    "chex>=0.1.91",
    "einops>=0.8",
    "flax>=0.12.8",
    "grain>=0.2.18",
    "huggingface_hub>=1.31",  # imported when a hub id is given
    "importlib_resources",  # tensorflow-datasets 4.9 imports it without declaring it
    "jax>=0.10,<0.13",
    "ml-collections>=1.1",
    "numpy>=2.0",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "pillow>=11",
    "scikit-learn>=1.5",  # the embedded digits data set, linear probes
    "scipy>=1.13",  # which jax needs too
    "tensorflow-datasets>=4.9.10",
    "tqdm>=4.66",
]
TORCH = ["torch>=2.6", "timm>=1.0.31", "torchvision", "transformers>=5.0", "safetensors>=0.5"]
GCS = ["gcsfs>=2026.9", "google-cloud-storage>=3.0"]
S3 = ["s3fs>=2026.9"]
PARQUET = ["pyarrow>=20"]
VISUALIZE = ["matplotlib>=3.9"]
SERVE = [
    "python-multipart>=0.0.20",
    "starlette>=1.8",  # before, [::1] is no host
    "uvicorn>=0.35",
]
# Later ones of jax2onnx ask for an orbax-checkpoint older than ours, which they do not use.
ONNX = ["jax2onnx>=0.12.5", "onnx>=1.20", "onnxruntime>=1.24"]
DOCS = [
    "mkdocs>=1.6.1,<2",  # 2 drops plugins
    "mkdocs-material>=9.8.2",
    "mkdocstrings[python]>=1.0.8",
    "ruff>=0.17.5",  # breaks the lines of long signatures
]
TEST = [
    # The compiler of TPUs, which needs none; the tests that compile for them skip without it.
    "jax[tpu]; sys_platform == 'linux' and platform_machine == 'x86_64'",
    "pytest>=8",
    "pytest-xdist>=3.6",
    "tensorboard>=2.19",  # its reader checks our event files
    "nbclient>=0.10",  # it and a kernel run the notebooks of colabs/
    "ipykernel>=6.29",
    *GCS,
    *S3,
    *PARQUET,
    *VISUALIZE,
    *SERVE,
    "playwright>=1.50",  # drives a browser that is installed already, for the page's test
    "requests>=2.32",
    *ONNX,
    "gcp-storage-emulator>=2024.8",  # an object store on this machine
    "moto[s3]>=5.1",  # another
    "flask>=3.0",  # which moto's server needs
    "flask-cors>=5.0",
    "tensorflow-cpu>=2.20; platform_machine == 'x86_64'",  # installed to see that it stays unused
]
# The test oracles are pinned: equality is claimed against these versions.
ORACLES = [
    "torch==2.13.0",
    "torchvision==0.28.0",
    "timm==1.0.31",
    "transformers==5.23.0",
    "safetensors>=0.5",
]

setuptools.setup(
    name="vit_jax",
    version="0.1.0",
    description="The Vision Transformer family in JAX and Flax: exact, resumable, readable.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=setuptools.find_packages(include=["vit_jax", "vit_jax.*"]),
    package_data={"vit_jax.serving": ["page/*"]},
    install_requires=CORE,
    extras_require={
        "tpu": ["jax[tpu]"],
        "cuda": ["jax[cuda]"],
        "gcs": GCS,
        "s3": S3,
        "torch": TORCH,
        "visualize": VISUALIZE,
        "parquet": PARQUET,
        "serve": SERVE,
        "onnx": ONNX,
        "docs": DOCS,
        "test": TEST + ORACLES,
        "dev": TEST + ORACLES + DOCS + ["build>=1.2", "ruff==0.17.5"],
    },
    entry_points={"console_scripts": ["vit-jax = vit_jax.cli.main:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
