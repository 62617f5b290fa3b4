"""A process of the server's: streams of one net, commands in by standard input (`python -m ... NET.flux THREADS`)."""

import sys

from fluxcompile.net import load
from fluxcompile.remote import worker_of
from fluxcompile.runtime.pool import serve_pipe


def main() -> None:
    net = load(sys.argv[1])
    serve_pipe(worker_of(net, threads=int(sys.argv[2])), sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
