#!/bin/sh
# Runs one command of "consilo silo" in the silo's directory; without one, the node.
#   SILO_DIR         the silo's directory; /silo unless set
#   SILO_INVITATION  an invitation to take up first, where the silo has joined nobody yet
set -eu
umask 077
# Code comes from where the image has its packages, and from no variable or home.
unset PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONUSERBASE PYTHONPLATLIBDIR PYTHONBREAKPOINT
export PYTHONNOUSERSITE=1 PYTHONSAFEPATH=1
ulimit -c 0

home="${SILO_DIR:-/silo}"
fail() {
    echo "consilo-silo: $1" >&2
    exit 2
}

[ "$(id -u)" -ne 0 ] || fail "this is root; run the container as an ordinary user (USER 10001)"
[ -d "$home" ] || fail "$home is not there; mount the silo's directory at it"
[ -w "$home" ] || fail "$home cannot be written to by the user $(id -u); chown it to that user"
cd "$home"

if [ "${1:-join}" = join ] && [ ! -f coordinator.yaml ]; then
    [ -n "${SILO_INVITATION:-}" ] || fail "this silo has joined nobody; set SILO_INVITATION to its file"
    consilo silo init "$SILO_INVITATION"
fi
exec consilo silo "${@:-join}"
