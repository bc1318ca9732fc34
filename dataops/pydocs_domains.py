"""Domains of the demo corpus: a small table, then package classifiers, else None for a classifier to predict."""

from __future__ import annotations

from collections.abc import Sequence

DOMAINS = (
    "data",
    "developer-tools",
    "distributed-systems",
    "language",
    "legal",
    "machine-learning",
    "mathematics",
    "numerics",
    "systems",
    "web",
)

_DISTRIBUTIONS = {
    "data": "duckdb fsspec msgpack pandas protobuf pyarrow pydantic pydantic-core smart-open sortedcontainers",
    "developer-tools": (
        "click grimp hypothesis import-linter mypy pip pluggy pybind11 pycparser pytest ruff setuptools typer "
        "virtualenv"
    ),
    "distributed-systems": (
        "google-api-core googleapis-common-protos grpcio opencensus opencensus-context opentelemetry-api "
        "opentelemetry-sdk opentelemetry-proto opentelemetry-semantic-conventions prometheus-client ray"
    ),
    "language": "charset-normalizer ftfy jinja2 markdown markdown-it-py markupsafe pygments regex rich wcwidth",
    "machine-learning": (
        "datasketch fasttext huggingface-hub safetensors tensorboard tensorboardx tokenizers torch torchvision "
        "transformers triton"
    ),
    "mathematics": "mpmath sympy",
    "numerics": "llvmlite networkx numba numpy scipy",
    "systems": "certifi cffi cryptography filelock platformdirs py-spy pyasn1 pyasn1-modules",
    "web": "aiohttp aiohttp-cors anyio google-auth h11 httpcore2 httpx2 idna multidict requests urllib3 werkzeug yarl",
}
_DOMAIN_OF = {name: domain for domain, names in _DISTRIBUTIONS.items() for name in names.split()}

# The first that begins a classifier decides; only mathematics proper is mathematics, for it is the demo's target.
_TOPICS = (
    ("Topic :: Scientific/Engineering :: Artificial Intelligence", "machine-learning"),
    ("Topic :: System :: Distributed Computing", "distributed-systems"),
    ("Topic :: Internet", "web"),
    ("Topic :: Database", "data"),
    ("Topic :: Text Processing", "language"),
    ("Topic :: Scientific/Engineering", "numerics"),
    ("Topic :: Security", "systems"),
    ("Topic :: System", "systems"),
    ("Topic :: Software Development :: Testing", "developer-tools"),
    ("Topic :: Software Development :: Build Tools", "developer-tools"),
    ("Topic :: Software Development :: Quality Assurance", "developer-tools"),
)

_STDLIB = {
    "data": "array bisect collections copy copyreg csv dbm heapq json pickle plistlib shelve sqlite3 struct",
    "developer-tools": (
        "argparse ast bdb cProfile code compileall dis distutils doctest ensurepip idlelib inspect optparse pdb "
        "profile pstats pydoc pydoc_data symtable timeit token tokenize trace tracemalloc typing unittest venv zipapp"
    ),
    "language": "codecs difflib encodings gettext locale re sre_compile string stringprep textwrap unicodedata",
    "numerics": "_pydecimal colorsys decimal fractions numbers random statistics",
    "systems": (
        "asyncio concurrent ctypes curses fcntl getpass glob logging multiprocessing ntpath os pathlib platform "
        "posixpath queue sched selectors shutil signal socket socketserver stat subprocess tempfile threading"
    ),
    "web": "cgi email ftplib html http imaplib mailbox mimetypes poplib smtplib ssl urllib wsgiref xml xmlrpc",
}
_STDLIB_DOMAIN_OF = {name: domain for domain, names in _STDLIB.items() for name in names.split()}


def domain_of_distribution(name: str, classifiers: Sequence[str]) -> str | None:
    """The domain of an installed package, by its normalised name and then by its classifiers."""
    if name in _DOMAIN_OF:
        return _DOMAIN_OF[name]
    return next(
        (domain for topic, domain in _TOPICS for each in classifiers if each.startswith(topic)),
        None,
    )


def domain_of_stdlib_module(name: str) -> str | None:
    """The domain of a top-level module of the standard library."""
    return _STDLIB_DOMAIN_OF.get(name)
