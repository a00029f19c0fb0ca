# Where things are; sourced by the shell scripts under tests/.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${NODEPOOL_TEST_CACHE:-$ROOT/.cache}
VENV=$CACHE/venv
ANSIBLE_VENV=$CACHE/ansible
DENY_VENV=$CACHE/deny
STATSD_EXPORTER_DIR=$CACHE/statsd_exporter
UPSTREAM=$CACHE/nodepool-11.0.0
# What the Software Factory operator deploys beside us, where it is not what the other tests use.
OPERATOR_ZOOKEEPER=$CACHE/zookeeper-3.9.4
OPERATOR_ZUUL=$CACHE/zuul-14.1.0
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
IMAGES=$TARGET/test-images
DASHBOARD=$CACHE/dashboard
