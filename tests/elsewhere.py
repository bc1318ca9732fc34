"""A process that has transformers but none of our packages, started once: what it finds in an exported folder."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHILD = """
import json, os, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("catalog", "dataops", "training", "clusters"):
            raise ImportError(name + " belongs to the project that exported the model")
sys.meta_path.insert(0, Refuse())
answers, sys.stdout = sys.stdout, sys.stderr
import torch
torch.set_num_threads(1)
from transformers import AutoModelForCausalLM, AutoTokenizer
for line in sys.stdin:
    asked = json.loads(line)
    folder, own_code = asked["folder"], asked["own_code"]
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=own_code).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=own_code)
        out = []
        for text in asked["texts"]:
            ids = tokenizer(text)["input_ids"]
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0].tolist()
            bare = tokenizer.encode(text, add_special_tokens=False)
            out.append({"ids": ids, "bare": bare, "decoded": tokenizer.decode(bare), "logits": logits})
        greedy = model.generate(torch.tensor([asked["prompt"]]), max_new_tokens=8, do_sample=False)[0].tolist()
        found = {"out": out, "greedy": greedy, "class": type(model).__name__}
        found |= {"special": tokenizer.all_special_tokens, "end": [model.config.eos_token_id, tokenizer.eos_token_id]}
    except Exception as error:
        found = {"error": repr(error)}
    print(json.dumps(found), file=answers, flush=True)
"""


@dataclass(frozen=True)
class Elsewhere:
    """The running process; `error` is where it writes what is not an answer."""

    process: subprocess.Popen[str]
    error: Path

    def load(
        self, folder: Path, texts: Sequence[str], *, prompt: Sequence[int] = (0, 5, 6), own_code: bool = False
    ) -> dict[str, Any]:
        """Class, special tokens, token ids and logits of each text, and the greedy tokens after `prompt`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        asked = {"folder": str(folder), "texts": list(texts), "prompt": list(prompt), "own_code": own_code}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline() or json.dumps({"error": self.error.read_text()}))
        assert "error" not in answer, answer["error"]
        return answer


@contextmanager
def started(folder: Path) -> Iterator[Elsewhere]:
    """The process, working in `folder`, until the block ends."""
    environment = {"HF_HOME": str(folder / "hub"), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"}
    with open(folder / "error", "w") as error:
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", CHILD],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=error,
            text=True,
        )
    with process:
        yield Elsewhere(process, folder / "error")
        process.kill()
