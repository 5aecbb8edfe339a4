#!/bin/sh
# Builds ./plugin from main.go and the protos: needs go, protoc, protoc-gen-go and protoc-gen-go-grpc.
# With Debian packages (golang-go golang-google-grpc-dev golang-google-protobuf-dev protoc-gen-go-1-5 protoc-gen-go-grpc, and
# golang-github-golang-protobuf-1-5-dev unpacked into a folder of $GOPATH where apt refuses it) nothing is downloaded;
# elsewhere `go mod init moontune && go mod tidy` in the build folder fetches grpc and protobuf.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
build=${1:-$(mktemp -d)}
source=$build/src/moontune
mkdir -p "$source"
cd "$here/../../../protos"
options=""
for file in common/v1/error common/v1/geometry common/v1/ground_truth common/v1/image common/v1/mask common/v1/output \
  common/v1/pose common/v1/request common/v1/sampling common/v1/skill reward/v1/reward reward/v1/reward_plugin_service; do
  test -f "moontune/api/$file.proto" || continue
  options="$options --go_opt=Mmoontune/api/$file.proto=moontune/gen/$(dirname "$file")"
  options="$options --go-grpc_opt=Mmoontune/api/$file.proto=moontune/gen/$(dirname "$file") moontune/api/$file.proto"
done
protoc -I . --go_out="$build/src" --go-grpc_out="$build/src" $options
cp "$here/main.go" "$source/"
cd "$source"
if [ -d /usr/share/gocode ]; then
  GO111MODULE=off GOPATH="$build${GOPATH:+:$GOPATH}:/usr/share/gocode" go build -o "$here/plugin" .
else
  go mod init moontune && go mod tidy && go build -o "$here/plugin" .
fi
