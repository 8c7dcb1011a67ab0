"""Pre-train the embedded `nano` base: `python -m model.pretrain --data DIR --out DIR`.

A DeepSeek-V3-shaped Mixture of Experts (multi-head latent attention, one shared expert, eight
routed experts of which two serve a token) learns to continue text and to answer a prompt with its
label, on public data that belongs to no party. The run is seeded, writes a checkpoint every few
minutes and goes on from it when it is started again; `--tokens` may be changed between starts,
because the learning rate is a function of the share of tokens done. `model.pretraining` holds the
parts.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from model.pretraining.train import folders_needed, pretrain


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(
        prog="python -m model.pretrain",
        description="Pre-train the embedded nano base; goes on from its checkpoint.",
        epilog="example: python -m model.pretrain --data corpora --out nano-run --tokens 40e6",
    )
    folders = ", ".join(folders_needed())
    parser.add_argument("--data", type=Path, required=True, help=f"folder that holds {folders}")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint, result")
    parser.add_argument("--tokens", type=float, default=40e6, help="in all (default: 40e6)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, batches (default: 0)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument(
        "--begin-from",
        type=Path,
        help="folder of an earlier base of this shape: its tokenizer is extended, its weights are"
        " trained on (default: begin with random weights)",
    )
    arguments = parser.parse_args(argv)
    missing = [name for name in folders_needed() if not (arguments.data / name).is_dir()]
    if missing:
        parser.error(f"expected folders {', '.join(missing)} in {arguments.data}")
    pretrain(
        arguments.data,
        arguments.out,
        num_tokens=int(arguments.tokens),
        seed=arguments.seed,
        begin_from=arguments.begin_from,
        num_threads=arguments.threads,
    )


if __name__ == "__main__":
    main()
