// To build etcd for the tests against a real API server. `cargo xtask setup` builds it.

module sluice.dev/tests/apiserver/etcd

go 1.25

require go.etcd.io/etcd/server/v3 v3.6.5
