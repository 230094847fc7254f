#!/usr/bin/env bash
# An Apache Kafka of one's own: kafka.sh start DIR [--brokers N] [NAME=VALUE]…
#                               kafka.sh stop|kill|restart|pause|resume|running DIR [--broker I]
# `start` prints the bootstrap addresses, which are also in DIR/bootstrap, and in DIR/secure those that want TLS and a
# password; brokers are numbered from 1, and the process id of each is in DIR/broker-I/pid. KAFKA_JVM are the options of their Java, "-Xmx512m -XX:+UseG1GC" when not set.
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

# An id as Kafka draws them. None begins with what begins an option.
random_uuid() {
    local uuid=-
    while [ "${uuid#-}" != "$uuid" ]; do uuid=$(head -c 16 /dev/urandom | basenc --base64url | cut -c1-22); done
    echo "$uuid"
}

# What makes the start of a broker cheap, since tests start so many: a formatted folder to copy, and the classes as Java has them in
# memory once Kafka runs. Both are made once.
prepared() {
    local home part broker
    home=$(jars)-prepared
    [ -d "$home" ] && { echo "$home"; return; }
    part=$(part "$home")
    broker=$part/broker-1
    configure "$part" 1
    kafka_class kafka.tools.StorageTool format -t "$(random_uuid)" \
        --add-scram 'SCRAM-SHA-512=[name=outboxd,password=outboxd]' \
        -c "$broker/server.properties" >"$part/format.log" 2>&1 || die "formatting failed, see $part/format.log"
    cp -a "$broker/data" "$part/data"
    launch "$broker" "-XX:ArchiveClassesAtExit=$part/classes.jsa"
    wait_for 90 "the start of Kafka (see $broker/log)" answers "$broker"
    stop "$broker"
    rm -rf "$broker"
    complete "$part" "$home"
    echo "$home"
}

# Formats a broker's folder, as `kafka-storage format` does.
format() {
    local broker=$1 number=$2 cluster=$3
    cp -a "$(prepared)/data" "$broker/data"
    printf '%s\n' version=1 "cluster.id=$cluster" "node.id=$number" "directory.id=$(random_uuid)" >"$broker/data/meta.properties"
}

# Writes the properties of brokers that are not formatted yet.
configure() {
    local dir=$1 brokers=$2 replicas=$(($2 < 3 ? 1 : 3)) secure="" voters="" i ports=() tls
    shift 2
    tls=$(certificates)
    # What an interrupted start left.
    rm -rf "$dir"/broker-*
    # Nobody listens yet, so the same port could be drawn twice.
    until [ "$(printf '%s\n' "${ports[@]}" | sort -u | wc -l)" = $((3 * brokers)) ]; do
        for ((i = 1; i <= 3 * brokers; i++)); do ports[i]=$(free_port); done
    done
    for ((i = 1; i <= brokers; i++)); do
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
    echo "${secure#,}" >"$dir/secure"
}

running() { alive "$1/pid" "$1/server.properties"; }

launch() {
    local broker=$1 archive=${2:-"-XX:SharedArchiveFile=$(prepared)/classes.jsa"}
    claim_port "$(port "$broker")" "$broker"
    # shellcheck disable=SC2086 # They are several options.
    setsid nohup java ${KAFKA_JVM:--Xmx512m -XX:+UseG1GC} "$archive" -cp "$(jars)/*" kafka.Kafka "$broker/server.properties" \
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

# Makes a cluster. Only one that is whole says where it listens.
make() {
    local dir=$1 brokers=$2 cluster i
    configure "$@"
    cluster=$(random_uuid)
    for ((i = 1; i <= brokers; i++)); do format "$dir/broker-$i" "$i" "$cluster"; done
    sed -n 's/^advertised.listeners=PLAINTEXT:..\([^,]*\),.*/\1/p' "$dir"/broker-*/server.properties | paste -sd, >"$dir/bootstrap"
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
    [ -f "$dir/bootstrap" ] || make "$dir" "$brokers" "${settings[@]}"
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
