#!/usr/bin/env bash
# Every engine on a GPU against the CPU, and what a lane costs there: one command of under eight minutes, which ends with
# an error where anything is wrong. The table goes to experiments/results/gpu.md. Tried without a GPU by
#
#     bash experiments/gpu/run.sh --platform cpu --sizes 64,256 --out /tmp/gpu.md
#
# PYTHON is the interpreter, LIMIT the seconds after which all is stopped (what was measured by then is in the table).
set -euo pipefail
cd "$(dirname "$0")/../.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-3}"
LIMIT="${LIMIT:-470}"
exec timeout --kill-after=5 "$LIMIT" "${PYTHON:-python}" experiments/gpu/check.py --limit "$((LIMIT - 20))" "$@"
