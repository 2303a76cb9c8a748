#!/usr/bin/env bash
# All benches of all peers, one after another; see run_all.py --help.
exec "$(dirname "$(readlink -f "$0")")/venv/bin/python" "$(dirname "$(readlink -f "$0")")/run_all.py" "$@"
