# Two commands matter: `make check` and `make test`. Both install or build what they need.

CARGO_DENY := target/tools/bin/cargo-deny
TESTBED := target/testbed
# More tests at a time than there are cores, where they are few: most of what the tests do is to wait.
test quick: export RUST_TEST_THREADS ?= 10
ROUNDS ?= 50
SECONDS ?= 60

.PHONY: help check test quick fuzz torture bench bench-quick bench-micro msrv package dist monitoring openapi testbed testbed-down

help: ## Shows this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

check: $(CARGO_DENY) ## Format, lints on every set of features, documentation, licences, and no librdkafka for writers
	cargo fmt --check
	cargo clippy --all-targets --features microbench -- -D warnings
	cargo clippy --no-default-features -- -D warnings
	cargo clippy --no-default-features --features postgres -- -D warnings
	cargo clippy --no-default-features --features mysql -- -D warnings
	cargo clippy --no-default-features --features relay,mysql -- -D warnings
	cargo clippy --no-default-features --features sqlite -- -D warnings
	cargo clippy --no-default-features --features relay,sqlite -- -D warnings
	cargo clippy --no-default-features --features relay,postgres,memory -- -D warnings
	cargo clippy --no-default-features --features kafka -- -D warnings
	cargo clippy --no-default-features --features otel -- -D warnings
	cargo clippy --all-targets --no-default-features --features daemon -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items
	testbed/deny $(CARGO_DENY)
	testbed/no-librdkafka

test: testbed monitoring openapi ## Starts PostgreSQL, MySQL, MariaDB and Kafka, and runs every test on them
	. $(TESTBED)/env && cargo test --no-fail-fast

quick: testbed ## The tests that answer within minutes: units, the contract without servers, PostgreSQL's own
	cargo test --lib
	. $(TESTBED)/env && cargo test --test suite -- \
		architecture migrations engine contract::memory contract::sqlite postgres::

fuzz: ## Feeds every reader of foreign bytes with hostile ones, a minute each (SECONDS=…; SEED=… replays)
	OUTBOXD_FUZZ_SECONDS=$(SECONDS) OUTBOXD_FUZZ_SEED=$(SEED) cargo test --lib -- fuzz:: --nocapture

torture: testbed ## Breaks everything there is, ROUNDS times (SEED=… replays; RECORD=file adds up totals)
	. $(TESTBED)/env && OUTBOXD_TORTURE_ROUNDS=$(ROUNDS) OUTBOXD_TORTURE_SEED=$(SEED) OUTBOXD_TORTURE_RECORD=$(RECORD) \
		cargo test --test suite -- torture::whatever_breaks --nocapture

bench: testbed ## Measures outboxd beside its peers, and goes on where an interrupted run was (BENCH=… narrows it)
	. $(TESTBED)/env && cargo bench --bench harness -- $(BENCH)

bench-quick: testbed ## The main ratios, within five minutes
	. $(TESTBED)/env && cargo bench --bench harness -- --quick --fresh $(BENCH)

msrv: ## Checks everything with the oldest Rust that is supported
	testbed/msrv

package: ## Packs what is published, and compiles it from that
	testbed/package

dist: ## The binary as it is shipped: target/dist/outboxd
	cargo build --locked --profile dist

bench-micro: ## The pure parts of the hot path, without services
	cargo bench --bench micro --features microbench

monitoring: ## Checks and tests alerts, recording rules and dashboard (testbed/monitoring --write renders them anew)
	testbed/monitoring

openapi: ## Checks the description of the HTTP API
	testbed/openapi

testbed: ## Starts the real services that the tests use
	testbed/up

testbed-down: ## Stops them
	testbed/down

$(CARGO_DENY):
	cargo install cargo-deny --locked --debug --root target/tools
