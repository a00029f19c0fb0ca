#!/bin/sh -ex
# fetch-config-repo.sh [REF]: ~/config as it is at REF; the first time a clone.
ref=$1
if [ -d ~/config/.git ]; then
  pushd ~/config
  git remote remove origin
  git remote add origin "${CONFIG_REPO_BASE_URL}/${CONFIG_REPO_NAME}"
  if [ "$ref" == "" ]; then
    ref=$(git remote show origin | sed -n 's/.*HEAD branch: //p')
    git fetch origin
    git reset --hard "origin/$ref"
  else
    git fetch origin
    git reset --hard "$ref"
  fi
  popd
else
  git clone "${CONFIG_REPO_BASE_URL}/${CONFIG_REPO_NAME}" ~/config
fi
