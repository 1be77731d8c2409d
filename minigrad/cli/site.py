"""`minigrad site`: the course as pages."""

import argparse
from pathlib import Path
from typing import Any

from minigrad.errors import UsageError


def add_parser(subparsers: Any) -> None:
    """Add `site` to the command line."""
    parser = subparsers.add_parser(
        "site",
        help="build the course as pages that need no network",
        description="Run every lesson and write the pages of the course, or show them.",
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    build = actions.add_parser("build", help="run the lessons and write the pages", allow_abbrev=False)
    build.add_argument("--quick", action="store_true", help="run the lessons' short forms")
    build.add_argument("--lessons", type=int, nargs="+", metavar="N", help="only these lessons")
    serve = actions.add_parser(
        "serve", help="show the pages to a browser on this machine", allow_abbrev=False
    )
    serve.add_argument("--port", type=int, default=8000, metavar="P", help="default: 8000")
    for one in (build, serve):
        one.add_argument(
            "--out", type=Path, default=Path("site"), metavar="DIR", help="the folder (default: site)"
        )


def main(args: argparse.Namespace) -> int:
    """Build or serve. Raises UsageError where there is nothing to serve or the port is taken."""
    if args.action == "serve":
        return serve(args.out, args.port)
    from minigrad.lessons import find_lesson, lessons
    from minigrad.lessons.site import build

    chosen = (
        lessons() if args.lessons is None else [find_lesson(number) for number in sorted(set(args.lessons))]
    )
    build(args.out, chosen, quick=args.quick, said=lambda words: print(words, flush=True))
    print(f"open {args.out / 'index.html'}, or `minigrad site serve`")
    return 0


def serve(folder: Path, port: int) -> int:
    """Serve a built site to this machine only, until Ctrl-C."""
    import functools
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    if not (folder / "index.html").is_file():
        raise UsageError(f"there is no site in {folder}; `minigrad site build` writes one")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise UsageError(
            f"port {port} cannot be used ({error.strerror}); name another with --port"
        ) from error
    print(f"http://127.0.0.1:{server.server_port}/ shows the course; Ctrl-C ends", flush=True)
    with server:
        server.serve_forever()
    return 0
