# Where things are; sourced by the shell scripts under tests/.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${NODEPOOL_TEST_CACHE:-$ROOT/.cache}
VENV=$CACHE/venv
ANSIBLE_VENV=$CACHE/ansible
DENY_VENV=$CACHE/deny
UPSTREAM=$CACHE/nodepool-11.0.0
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
