#!/usr/bin/env bash
# Make headless OpenGL available to MuJoCo: `setup_gl.sh PYTHON`, where PYTHON has mujoco installed.
# Tries to draw first; installs Debian's Mesa only if that fails and we may. Never stops the caller: says what is missing.
set -uo pipefail
python=$1
packages="libosmesa6 libegl1 libgl1-mesa-dri"
draw='import mujoco; mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 16, 16).render()'

can_draw() {
    for backend in ${MUJOCO_GL:-egl osmesa}; do
        MUJOCO_GL=$backend "$python" -c "$draw" >/dev/null 2>&1 && return
    done
    return 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

can_draw && exit 0
if command -v apt-get >/dev/null && as_root true 2>/dev/null; then
    echo "MuJoCo cannot draw without a display; installing $packages"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y $packages >/dev/null
fi
can_draw && exit 0
cat >&2 <<EOF
MuJoCo cannot draw without a display here. Install Mesa's software renderers, for example with
    sudo apt-get install $packages
and, if MUJOCO_GL is set (now: '${MUJOCO_GL:-}'), set it to egl or osmesa. Going on without.
EOF
exit 1
