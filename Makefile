# The front door. Each target is one script; what they need is installed by tests/setup.
.PHONY: help sim sim-campaign images test-images demo test test-zuul lint bench conformance interop openstack-faults openstack-two-hundred openstack-up openstack-down

help: ## what there is
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | column -t -s '|'

demo: ## a builder and a launcher on the fake cloud: an image, one request, from nothing to the node's deletion
	tests/demo

test: ## everything: format, lints, unit tests, upstream's own suite, Zuul and OpenStack; ends with N passed, N failed, N skipped
	tests/run

sim: ## launchers and builders in a simulated world, as in `make test` (SEED=n, BUILDERS=n: that history; CASES=n, BUILDER_CASES=n: so many, FROM=n on; TWICE=n: lived twice)
	BUILDERS=$(BUILDERS) BUILDER_CASES=$(BUILDER_CASES) SEED=$(SEED) CASES=$(CASES) FROM=$(FROM) TWICE=$(TWICE) cargo test --package nodepool-sim --lib -- --nocapture

sim-campaign: ## such histories on all cores for HOURS=n, from seed FROM=n on
	HOURS=$(HOURS) FROM=$(FROM) CASES=$(CASES) SHRINK=$(SHRINK) cargo test --profile campaign --package nodepool-sim --lib -- \
	  --ignored --nocapture campaign

test-zuul: ## a real Zuul: every scenario on static hosts and on OpenStack servers, with kill -9, beside Python, latency
	tests/setup test openstack zuul && cargo build --workspace
	tests/zuul/run

images: ## the container images of launcher and builder, without a registry (as root; BASE=, PROFILE=: deploy/images/build)
	tests/setup images && deploy/images/build

test-images: ## the images of `make images`, run by runc as the operator's pods run them
	tests/setup test images && tests/images/run --release

lint: ## cargo fmt, clippy and deny
	tests/run lint

conformance: ## upstream's unmodified test suite against our launcher, builder and command
	tests/run setup conformance

interop: ## Zuul's own classes, Python Nodepool and a real OpenStack against our launcher and builder
	tests/run setup interop

openstack-faults: ## what goes wrong in a cloud, done to a real OpenStack under our launcher (part of interop)
	tests/setup test openstack && cargo build --workspace
	tests/interop/run openstack-quota hanging-provider fault-nova-killed fault-creation-cut-off fault-keystone-down \
	  fault-tokens fault-storms fault-hangs fault-lost-answers fault-servers fault-quota fault-quota-race

openstack-two-hundred: ## two hundred servers at once on a real OpenStack, with the cloud calls that each cost
	tests/setup test openstack && cargo build --workspace
	tests/interop/run openstack-two-hundred

bench: ## what the launcher does and costs, beside Python Nodepool's and ZooKeeper alone (tests/bench/README.md)
	tests/run setup bench

openstack-up: ## installs and starts a real OpenStack on loopback
	tests/setup openstack && tests/services/openstack/up

openstack-down: ## stops it; its state stays
	tests/services/openstack/down
