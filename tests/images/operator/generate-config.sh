#!/bin/sh -ex
# generate-config.sh [REF]: the operator's part, and the site's file of the config repository behind it.
cat > ~/nodepool.yaml <<EOF
---
webapp:
  port: 8006
zookeeper-servers:
  - host: zookeeper-0.zookeeper-headless.sf.svc.cluster.local
    port: 2281
zookeeper-tls:
  ca: /tls/client/ca.crt
  cert: /tls/client/tls.crt
  key: /tls/client/tls.key
images-dir: /var/lib/nodepool/dib
build-log-dir: /var/lib/nodepool/builds/logs
EOF
if [ "${CONFIG_REPO_SET}" == "TRUE" ]; then
  /usr/local/bin/fetch-config-repo.sh "$1"
  file=~/config/nodepool/${NODEPOOL_CONFIG_FILE:-nodepool.yaml}
  if [[ -f $file && ! $file =~ \.disabled$ ]]; then
    cat "$file" >> ~/nodepool.yaml
  fi
fi
cat ~/nodepool.yaml
cp ~/nodepool.yaml /etc/nodepool/nodepool.yaml
