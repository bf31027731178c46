#!/usr/bin/env bash
# Trains on a slice of Cloud TPU, one process per host, from a checkout:
#
#     launch/tpu.sh create
#     launch/tpu.sh setup                       copies the checkout to all hosts and installs it
#     launch/tpu.sh train --config=alexnet:imagenet2012_pack256 --workdir=/shared/runs/first
#     launch/tpu.sh stop                        all processes save and end
#     launch/tpu.sh delete
#
# The workdir lies on a file system that all hosts have mounted, such as Filestore. While the slice is there, a lost or
# hanging process (status 75) starts all of them again. A spot slice that was preempted is gone: delete it, and create,
# set up and train once more; the run resumes.
set -euo pipefail

# ---- to change
NAME=${NAME:-alexnet}
ZONE=${ZONE:-europe-west4-b}
TYPE=${TYPE:-v5litepod-16} # 16 chips on 4 hosts: a mesh of 8 x 2, or with --config.mesh.tower=1 of 16 x 1
VERSION=${VERSION:-v2-alpha-tpuv5-lite}

on_all() { gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="$1"; }

# Runs on every host; after 75 all of them come back, and wait for each other.
# shellcheck disable=SC2016  # $@ and $status are those of the host
LOOP='while status=0; .venv/bin/python main.py "$@" || status=$?; ((status == 75)); do sleep 5; done; exit $status'

case ${1:-} in
create)
  gcloud compute tpus tpu-vm create "$NAME" --zone="$ZONE" --accelerator-type="$TYPE" --version="$VERSION" --spot
  ;;
setup)
  git archive --format=tar.gz --output=/tmp/"$NAME".tar.gz HEAD
  gcloud compute tpus tpu-vm scp /tmp/"$NAME".tar.gz "$NAME": --zone="$ZONE" --worker=all
  on_all "mkdir -p alexnet_jax && cd alexnet_jax && tar -xzf ~/'$NAME'.tar.gz && python3 -m venv .venv &&
    .venv/bin/python -m pip install --quiet -c requirements.txt -e '.[tpu]'"
  ;;
train)
  shift
  on_all "cd alexnet_jax && bash -c $(printf '%q ' "$LOOP" train "$@")"
  ;;
stop) on_all "pkill -TERM -f 'python main.py'" ;;
delete) gcloud compute tpus tpu-vm delete "$NAME" --zone="$ZONE" --quiet ;;
*)
  echo "usage: launch/tpu.sh create|setup|train [FLAGS]|stop|delete" >&2
  exit 2
  ;;
esac
