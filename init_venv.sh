#!/usr/bin/env bash
# Makes venv/ beside this file. Usage: bash init_venv.sh --help
set -euo pipefail

usage() {
    cat <<'USAGE'
bash init_venv.sh [--cuda 13|12] [--with dev,timm,detect,remote] [--python PYTHON] [--help]

Makes venv/ beside this script from requirements.txt. A run with nothing to do takes a second;
a run after an interrupted one starts over. Options not given keep what venv/ was made with.

  --cuda 13|12     CUDA major version of the wheels (13). 13 needs an NVIDIA driver >= 580, 12 one >= 525;
                   both run on the CPU without any driver.
  --with NAMES     add requirements-dev.txt (linter, type checker, tests), requirements-timm.txt (--model
                   timm/<name>), requirements-detect.txt (tools/detect_faces.py, tools/identify.py) or
                   requirements-remote.txt (data and snapshots at s3:// and https://) by the names dev,
                   timm, detect and remote; comma-separated or repeated.
  --python PYTHON  interpreter to make it with (python3): 3.11 to 3.14, but not 3.14.1.
  --help           print this and exit.

Exit code 2: an option or the Python was refused, and nothing was changed.
USAGE
}

refuse() {
    echo "init_venv.sh: $1" >&2
    exit 2
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
venv=$root/venv

# The stamp says what venv/ holds. It is called .stamp.partial until the last package is in: then a run that
# finds no .stamp knows that the one before was interrupted, and what it was asked for.
remembered() { # key -> its value, or nothing
    cat "$venv/.stamp" "$venv/.stamp.partial" 2>/dev/null | sed -n "s/^$1 //p" || true
}

# An older venv/ may have been made with faiss, an extra that no longer exists.
cuda='' python='' extras=$(remembered extras | sed -E 's/(^|,)faiss(,|$)/\2/; s/^,//')
while (($#)); do
    case $1 in
        --cuda | --with | --python) [[ -n ${2-} ]] || refuse "$1 needs a value" ;;&
        --cuda)
            case $2 in 12 | 13) cuda=$2 ;; *) refuse "--cuda takes 13 or 12, not '$2'" ;; esac
            shift 2
            ;;
        --with)
            IFS=, read -ra words <<<"$2"
            for word in "${words[@]}"; do
                case $word in
                    dev | timm | detect | remote) [[ ,$extras, == *,$word,* ]] || extras+=${extras:+,}$word ;;
                    *) refuse "--with knows 'dev', 'timm', 'detect' and 'remote', not '$word'" ;;
                esac
            done
            shift 2
            ;;
        --python) python=$2; shift 2 ;;
        --help | -h) usage; exit 0 ;;
        *) refuse "unknown option '$1' (--help lists them)" ;;
    esac
done

[[ $(uname -s) == Linux ]] || refuse "Linux is needed: DALI and PyTorch's CUDA builds have no other wheels"
[[ -n $cuda ]] || cuda=$(remembered cuda)
[[ -n $cuda ]] || cuda=13
if [[ -z $python ]]; then
    python=python3
    if "$venv/bin/python" -c '' 2>/dev/null; then python=$venv/bin/python; fi
fi

# Version, whether it will do, whether it can make environments, and the interpreter under it: from inside
# venv/ (activated, or the default above) `python` is a file that making venv/ anew would delete.
probe='import sys
v = tuple(sys.version_info[:3])
try:
    import ensurepip, venv
    can = "venv"
except ImportError:
    can = "no-venv"
will_do = (3, 11) <= v < (3, 15) and v != (3, 14, 1)
in_venv = sys.prefix != getattr(sys, "base_prefix", sys.prefix)
print("%d.%d.%d %s %s %s" % (v + (will_do, can, sys._base_executable if in_venv else "")))'
found=$("$python" -c "$probe" 2>/dev/null) || refuse "cannot run '$python' (name an interpreter with --python)"
read -r version will_do can base <<<"$found"
# Where the wheels of requirements.txt exist: numpy, scikit-learn and pyarrow begin at 3.11, torch ends at
# 3.14, torchvision 0.29 excludes 3.14.1.
[[ $will_do == True ]] ||
    refuse "Python 3.11 to 3.14 is needed (but not 3.14.1), and '$python' is $version: name another with --python"
[[ $can == venv ]] ||
    refuse "'$python' has no venv module (Debian, Ubuntu: apt-get install python${version%.*}-venv)"
[[ -z $base ]] || python=$base

if [[ $cuda == 13 ]]; then
    echo "CUDA 13 wheels: need driver >= 580 for GPUs; CPU works without any driver;" \
        "for older drivers use --cuda 12"
else
    echo "CUDA 12 wheels: need driver >= 525 for GPUs; CPU works without any driver"
fi

files=("$root/requirements.txt") alone=''
for extra in ${extras//,/ }; do
    case $extra in
        detect) alone=$root/requirements-detect.txt ;;
        *) files+=("$root/requirements-$extra.txt") ;;
    esac
done
# The path is in it because the programs in venv/bin name it: a moved or copied venv/ is made anew.
making=$(printf 'path %s\npython %s\ncuda %s' "$root" "${version%.*}" "$cuda")
sha256=$(cat "${files[@]}" ${alone:+"$alone"} | sha256sum | cut -d ' ' -f 1)
wanted=$(printf '%s\nextras %s\nsha256 %s' "$making" "$extras" "$sha256")
activate=". ${venv#"$PWD"/}/bin/activate"

stamp=$(cat "$venv/.stamp" 2>/dev/null || true)
"$venv/bin/python" -c '' 2>/dev/null || stamp=
if [[ $stamp == "$wanted" ]]; then
    echo "venv/ is up to date; to use it: $activate"
    exit 0
fi

stage() { # label, command...: one line, with the seconds taken
    local start=$SECONDS
    printf '%s ... ' "$1"
    if "${@:2}"; then
        echo "$((SECONDS - start)) s"
    else
        echo "failed after $((SECONDS - start)) s; the next run starts over" >&2
        exit 1
    fi
}

# Packages can be added to a complete venv/; one that is incomplete, or for another Python or CUDA, goes.
if [[ $stamp != "$making"$'\n'* ]]; then
    stage "making venv/ with Python $version" "$python" -m venv --clear "$venv"
fi
echo "$wanted" >"$venv/.stamp.partial"
rm -f "$venv/.stamp"

index=()
if [[ $cuda == 12 ]]; then
    # cu126 is the one CUDA 12 build of PyTorch 2.14 (https://github.com/pytorch/pytorch/issues/190355): for
    # GPUs from Maxwell to Hopper. Driver: https://docs.nvidia.com/deploy/cuda-compatibility/
    # NOT RUN YET: of this path only the file below and the options of pip are tested.
    index=(--extra-index-url https://download.pytorch.org/whl/cu126)
    sed -e 's/^\(torch\|torchvision\)==\([^ ]*\)/\1==\2+cu126/' -e 's/^nvidia-dali-cuda130==/nvidia-dali-cuda120==/' \
        "$root/requirements.txt" >"$venv/requirements-cuda12.txt"
    files[0]=$venv/requirements-cuda12.txt
fi
stage "installing ${files[*]##*/} (7 GB: the first time takes minutes)" \
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check "${index[@]}" "${files[@]/#/--requirement=}"
[[ -z $alone ]] || stage "installing ${alone##*/}" \
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-deps "--requirement=$alone"

mv "$venv/.stamp.partial" "$venv/.stamp"
echo "venv/ is ready; to use it: $activate"
