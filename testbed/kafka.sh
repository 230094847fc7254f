#!/usr/bin/env bash
# An Apache Kafka of one's own: kafka.sh start DIR [--brokers N] [NAME=VALUE]…
#                               kafka.sh stop|kill|restart|pause|resume|running DIR [--broker I]
# `start` prints the bootstrap addresses, which are also in DIR/bootstrap, and in DIR/secure those that want TLS and a
# password; brokers are numbered from 1, and the process id of each is in DIR/broker-I/pid. KAFKA_HEAP is their heap, 512m when not set.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"

jars() {
    # Named after what is in it, so that a change of the pom takes nothing from under a running broker.
    local home part
    home=$testbed/kafka-jars-$(cksum <"$repository/testbed/kafka/pom.xml" | cut -d' ' -f1)
    [ -d "$home" ] && { echo "$home"; return; }
    say "getting Apache Kafka"
    part=$(part "$home")
    maven dependency:copy-dependencies -DoutputDirectory="$part"
    complete "$part" "$home"
    echo "$home"
}

kafka_class() {
    local home
    home=$(jars)
    java -Xshare:auto -cp "$home/*" "$@"
}

configure() {
    local dir=$1 brokers=$2 replicas=$(($2 < 3 ? 1 : 3)) addresses="" secure="" voters="" i ports=() tls
    shift 2
    tls=$(certificates)
    # What an interrupted start left.
    rm -rf "$dir"/broker-*
    # Nobody listens yet, so the same port could be drawn twice.
    until [ "$(printf '%s\n' "${ports[@]}" | sort -u | wc -l)" = $((3 * brokers)) ]; do
        for ((i = 1; i <= 3 * brokers; i++)); do ports[i]=$(free_port); done
    done
    for ((i = 1; i <= brokers; i++)); do
        addresses+=,127.0.0.1:${ports[i]}
        voters+=,$i@127.0.0.1:${ports[i + brokers]}
        secure+=,127.0.0.1:${ports[i + 2 * brokers]}
    done
    for ((i = 1; i <= brokers; i++)); do
        mkdir -p "$dir/broker-$i"
        cat >"$dir/broker-$i/server.properties" <<CONF
process.roles=broker,controller
node.id=$i
controller.quorum.voters=${voters#,}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:${ports[i]},SECURE://127.0.0.1:${ports[i + 2 * brokers]},CONTROLLER://127.0.0.1:${ports[i + brokers]}
advertised.listeners=PLAINTEXT://127.0.0.1:${ports[i]},SECURE://127.0.0.1:${ports[i + 2 * brokers]}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL
inter.broker.listener.name=PLAINTEXT
listener.name.secure.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
listener.name.secure.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_outboxd="outboxd";
listener.name.secure.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.secure.ssl.keystore.type=PEM
listener.name.secure.ssl.keystore.location=$tls/server.pem
log.dirs=$dir/broker-$i/data
# On, so that the tests can show that nothing of ours triggers it.
auto.create.topics.enable=true
# Tests send records with times of long ago.
log.retention.ms=-1
num.partitions=3
default.replication.factor=$replicas
min.insync.replicas=$((replicas < 3 ? 1 : 2))
offsets.topic.replication.factor=$replicas
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=$replicas
transaction.state.log.min.isr=$((replicas < 3 ? 1 : 2))
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
controlled.shutdown.enable=true
$(printf '%s\n' "$@")
CONF
    done
    kafka_class kafka.tools.StorageTool random-uuid 2>/dev/null | tail -n 1 >"$dir/cluster"
    for ((i = 1; i <= brokers; i++)); do
        kafka_class kafka.tools.StorageTool format -t "$(cat "$dir/cluster")" \
            --add-scram 'SCRAM-SHA-512=[name=outboxd,password=outboxd]' \
            -c "$dir/broker-$i/server.properties" >"$dir/broker-$i/format.log" 2>&1 ||
            die "formatting failed, see $dir/broker-$i/format.log"
    done
    echo "${secure#,}" >"$dir/secure"
    echo "${addresses#,}" >"$dir/bootstrap"
}

running() { alive "$1/pid" "$1/server.properties"; }

launch() {
    local broker=$1
    claim_port "$(port "$broker")" "$broker"
    setsid nohup java "-Xmx${KAFKA_HEAP:-512m}" -XX:+UseG1GC -cp "$(jars)/*" kafka.Kafka "$broker/server.properties" \
        >"$broker/log" 2>&1 </dev/null &
    echo $! >"$broker/pid"
}

port() { sed -n 's/^listeners=PLAINTEXT:..127.0.0.1:\([0-9]*\),.*/\1/p' "$1/server.properties"; }

# The broker's port opens only after it caught up with its controller. One that ended will not open it.
answers() { listens "$(port "$1")" || [ ! -e "/proc/$(cat "$1/pid")" ]; }

# Starts those of the given brokers that do not run, and waits for all of them.
serve() {
    local broker
    for broker in "$@"; do running "$broker" || launch "$broker"; done
    for broker in "$@"; do
        wait_for 90 "the start of Kafka (see $broker/log)" answers "$broker"
        running "$broker" || die "Kafka did not start, see $broker/log"
    done
}

start() {
    local dir=$1 brokers=1 settings=()
    shift
    while [ $# -gt 0 ]; do
        case $1 in
            --brokers) brokers=$2; shift 2 ;;
            *=*) settings+=("$1"); shift ;;
            *) die "unknown option $1" ;;
        esac
    done
    [ -f "$dir/bootstrap" ] || configure "$dir" "$brokers" "${settings[@]}"
    serve "$dir"/broker-*
    cat "$dir/bootstrap"
}

stop() {
    local broker
    for broker in "$@"; do signal "$signal_name" "$broker/pid" "$broker/server.properties"; done
    for broker in "$@"; do wait_for 60 "the end of Kafka in $broker" gone "$broker/pid" "$broker/server.properties"; done
}

# A broker that hangs: its connections stay, and nothing comes through them.
pause() { for broker in "$@"; do signal STOP "$broker/pid" "$broker/server.properties"; done; }
resume() { for broker in "$@"; do signal CONT "$broker/pid" "$broker/server.properties"; done; }

command=${1:-}
dir=$(folder "$@")
shift 2
if [ "${1:-}" = --broker ]; then chosen=("$dir/broker-$2"); else chosen=("$dir"/broker-*); fi
signal_name=TERM
case $command in
    start) start "$dir" "$@" ;;
    stop) stop "${chosen[@]}" ;;
    kill) signal_name=KILL; stop "${chosen[@]}" ;;
    restart) stop "${chosen[@]}"; serve "${chosen[@]}"; cat "$dir/bootstrap" ;;
    pause | resume) "$command" "${chosen[@]}" ;;
    running) for broker in "${chosen[@]}"; do running "$broker"; done ;;
    *) die "unknown command $command" ;;
esac
