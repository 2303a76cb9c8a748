#!/bin/sh
# One command on a machine with a GPU and PyTorch 2.11: everything that needs a card. See README.md.
#
#     bash run.sh OUT [sweep] [--device cpu]
#
# PYTHON names another Python than python3.
set -eu
folder=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
torch=$("$python" -c 'import torch; print(torch.__path__[0])')
# The libtorch of PyTorch, and CUDA's libraries (NVRTC and others) beside it.
libraries=$torch/lib
for found in "$(dirname "$torch")"/nvidia/*/lib; do
    libraries=$libraries:$found
done
export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
# Some ways of carrying a folder lose this.
[ -x "$folder/bin/brine" ] || chmod -R +x "$folder/bin"
exec "$python" "$folder/check.py" "$@"
