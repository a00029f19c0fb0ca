#!/bin/sh -ex
# Before the pod's own container: trust, directories, configuration.
update-ca-trust extract -o /etc/pki/ca-trust/extracted
mkdir -p ~/dib ~/nodepool/builds
/usr/local/bin/generate-config.sh
