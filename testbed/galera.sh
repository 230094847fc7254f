#!/usr/bin/env bash
# Two nodes of MariaDB that take writes both (Galera): galera.sh start|stop DIR. `start` prints their URLs, which are also in DIR/1/url
# and DIR/2/url. Not started by `up`: it needs what Debian calls galera-4 and rsync.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"

library=/usr/lib/galera/libgalera_smm.so

init() {
    local dir=$1 node
    [ -f $library ] && command -v rsync >/dev/null && command -v mariadbd >/dev/null ||
        die "please install what Debian calls galera-4, rsync and mariadb-server"
    for node in 1 2; do
        mkdir -p "$dir/$node"
        rm -rf "$dir/$node/data"
        free_port >"$dir/$node/port"
        # Group communication; state transfer takes the two ports after it.
        free_port >"$dir/$node/group"
        # Not /tmp: a server that starts removes what others have under way there.
        mkdir -p "$dir/$node/tmp"
        own "$dir/$node"
        $as_user mariadb-install-db --no-defaults --datadir="$dir/$node/data" --auth-root-authentication-method=normal \
            >"$dir/$node/install.log" 2>&1 || die "mariadb-install-db failed, see $dir/$node/install.log"
    done
    cat >"$dir/init.galera" <<'SQL'
create database if not exists outboxd;
create user if not exists outboxd@'127.0.0.1' identified by 'outboxd';
create user if not exists outboxd@localhost identified by 'outboxd';
grant all on *.* to outboxd@'127.0.0.1' with grant option;
grant all on *.* to outboxd@localhost with grant option;
SQL
    for node in 1 2; do
        echo "mysql://outboxd:outboxd@127.0.0.1:$(cat "$dir/$node/port")/outboxd" >"$dir/$node/url"
    done
}

launch() {
    local dir=$1 node=$2 group options=()
    group=$(cat "$dir/$node/group")
    # The first one makes the cluster, and the users; the second gets its data, and may join only then.
    [ "$node" = 2 ] || options+=(--wsrep-new-cluster --init-file="$dir/init.galera")
    [ "$node" = 1 ] || options+=(--wsrep-cluster-address="gcomm://127.0.0.1:$(cat "$dir/1/group")")
    [ "$node" = 2 ] || options+=(--wsrep-cluster-address="gcomm://")
    claim_port "$(cat "$dir/$node/port")" "$dir/$node"
    [ "$node" = 2 ] || sed -i 's/safe_to_bootstrap: 0/safe_to_bootstrap: 1/' "$dir/1/data/grastate.dat" 2>/dev/null || true
    $as_user setsid nohup mariadbd --no-defaults --datadir="$dir/$node/data" --tmpdir="$dir/$node/tmp" --socket="$dir/$node/socket" \
        --pid-file="$dir/$node/pid" --bind-address=127.0.0.1 --port="$(cat "$dir/$node/port")" \
        --wsrep-on=ON --wsrep-provider=$library --wsrep-cluster-name=outboxd --wsrep-node-address=127.0.0.1 \
        --wsrep-provider-options="base_port=$group;gmcast.listen_addr=tcp://127.0.0.1:$group;ist.recv_addr=127.0.0.1:$((group + 1))" \
        --wsrep-sst-method=rsync --wsrep-sst-receive-address="127.0.0.1:$((group + 2))" \
        --binlog-format=ROW --innodb-autoinc-lock-mode=2 --default-storage-engine=InnoDB "${options[@]}" \
        >"$dir/$node/log" 2>&1 </dev/null &
    wait_for 120 "node $node (see $dir/$node/log)" answers "$dir/$node"
}

start() {
    local dir=$1 node
    [ -f "$dir/2/url" ] || init "$dir"
    for node in 1 2; do
        running "$dir/$node" || launch "$dir" "$node"
    done
    cat "$dir/1/url" "$dir/2/url"
}

running() { alive "$1/pid" "$1/data"; }

# A node that is getting its data listens, and answers nothing yet.
answers() {
    running "$1" && mariadb --no-defaults -h127.0.0.1 -P"$(cat "$1/port")" -uoutboxd -poutboxd -N -e \
        "show status like 'wsrep_local_state_comment'" | grep Synced >/dev/null
}

stop() {
    local dir=$1 node
    for node in 2 1; do
        signal TERM "$dir/$node/pid" "$dir/$node/data"
        wait_for 60 "the end of node $node" gone "$dir/$node/pid" "$dir/$node/data"
    done
}

command=${1:-}
dir=$(folder "$@")
case $command in
    start) start "$dir" ;;
    stop) stop "$dir" ;;
    *) die "unknown command $command" ;;
esac
