# What the tests need besides cargo: sourced by scripts/test.
#
# Everything that is started here is stopped by stop_services; nothing else is.

services_log="${CARGO_TARGET_DIR:-target}/test-services"
dockerd_pid=
docker_unit=
postgres_bin=
postgres_dir=

is_root() { [[ "$(id -u)" == 0 ]]; }

# In front of a command that needs root; fails where that asks for a password.
as_root=()
is_root || as_root=(sudo -n)

may_become_root() { is_root || sudo -n true 2>/dev/null; }

fail() {
  printf 'scripts/test: %s\n' "$*" >&2
  exit 1
}

fail_with_log() {
  { printf 'The end of %s:\n' "$2"; tail -n 40 "$2"; } >&2
  fail "$1"
}

# Tries the command twice a second until it succeeds or the seconds are over.
wait_for() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.5
  done
}

docker_answers() { timeout 10 docker version >/dev/null 2>&1; }

has_docker() { command -v docker >/dev/null && command -v dockerd >/dev/null; }

uses_own_postgres() { [[ -z "${MOLECULE_TEST_POSTGRES_URL:-}" ]]; }

# The newest server of the system; what is on the PATH may be a wrapper.
find_postgres() {
  local found
  found="$(find /usr/lib/postgresql/*/bin -name initdb 2>/dev/null | sort -V | tail -n 1)"
  [[ -n "$found" ]] || found="$(pg_config --bindir 2>/dev/null || true)/initdb"
  [[ -x "$found" ]] || return 1
  postgres_bin="$(dirname "$found")"
}

# Test images hold this one file, so it must not need a C library.
has_static_busybox() { [[ -x /bin/busybox ]] && ! ldd /bin/busybox >/dev/null 2>&1; }

missing_packages() {
  command -v cc >/dev/null || echo gcc libc6-dev
  command -v git >/dev/null || echo git
  # For the commands of the book.
  command -v curl >/dev/null || echo curl
  command -v sqlite3 >/dev/null || echo sqlite3
  [[ -e /etc/ssl/certs/ca-certificates.crt ]] || echo ca-certificates
  has_static_busybox || echo busybox-static
  if ! docker_answers && ! has_docker; then echo docker.io; fi
  command -v docker-registry >/dev/null || echo docker-registry
  if uses_own_postgres && ! find_postgres; then echo postgresql; fi
}

install_missing() {
  local missing
  missing="$(missing_packages | xargs)"
  [[ -n "$missing" ]] || return 0
  command -v apt-get >/dev/null ||
    fail "these Debian packages, or what your system calls them, are missing: $missing"
  may_become_root ||
    fail "packages are missing; install them with: sudo apt-get install --no-install-recommends $missing"
  stage "install packages: $missing"
  local log="$services_log/apt.log"
  "${as_root[@]}" apt-get update >"$log" 2>&1 || fail_with_log "apt-get update failed" "$log"
  # Newer releases keep the client of docker.io in a package of its own.
  if [[ " $missing " == *" docker.io "* ]] && apt-cache show docker-cli >/dev/null 2>&1; then
    missing+=" docker-cli"
  fi
  # shellcheck disable=SC2086 # one word per package
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends $missing >>"$log" 2>&1 ||
    fail_with_log "apt-get install failed" "$log"
  missing="$(missing_packages | xargs)"
  [[ -z "$missing" ]] || fail "installed, but still not usable: $missing"
}

# A daemon that was killed leaves its pid file; another program may have the
# number now, and then dockerd would refuse to start.
forget_dead_dockerd() {
  local file=/var/run/docker.pid pid
  pid="$(cat "$file" 2>/dev/null || true)"
  if [[ -n "$pid" && "$(cat "/proc/$pid/comm" 2>/dev/null || true)" != dockerd ]]; then
    "${as_root[@]}" rm -f "$file"
  fi
}

start_docker() {
  docker_answers && return
  case "${DOCKER_HOST:-}" in
    "" | unix:///var/run/docker.sock | unix:///run/docker.sock) ;;
    *) fail "no Docker daemon answers at DOCKER_HOST=$DOCKER_HOST" ;;
  esac
  may_become_root || fail "no Docker daemon answers, or you may not use it; start it, or join the group docker"
  stage "start Docker"
  if [[ -d /run/systemd/system ]]; then
    systemctl --quiet is-active docker || docker_unit=docker
    "${as_root[@]}" systemctl start docker || fail "systemd could not start docker; see journalctl -u docker"
    wait_for 30 docker_answers || fail "the Docker daemon runs, but you may not use it; join the group docker"
    return
  fi
  command -v dockerd >/dev/null || fail "no Docker daemon answers and dockerd is not installed; install docker.io"
  forget_dead_dockerd
  local log="$services_log/dockerd.log"
  # A session of its own: an interrupt at the terminal is for the tests first.
  "${as_root[@]}" setsid dockerd --group "$(id -gn)" >"$log" 2>&1 </dev/null &
  dockerd_pid=$!
  wait_for 60 docker_is_up || true
  docker_answers || fail_with_log "dockerd did not start" "$log"
}

# Also true when the daemon is gone: waiting longer would not help.
docker_is_up() { docker_answers || ! [[ -d "/proc/$dockerd_pid" ]]; }

as_postgres() {
  (
    cd "$postgres_dir"
    if is_root; then exec runuser -u postgres -- "$@"; else exec "$@"; fi
  )
}

# A cluster of our own that is thrown away. It lies in /tmp, because the user
# postgres may not look into this folder.
start_postgres() {
  uses_own_postgres || return 0
  stage "start PostgreSQL"
  find_postgres
  local log="$services_log/postgres.log" port options
  postgres_dir="$(mktemp -d /tmp/molecule-test-postgres.XXXXXX)"
  if is_root; then chown postgres: "$postgres_dir"; fi
  as_postgres "$postgres_bin/initdb" --pgdata=data --username=postgres --auth=trust \
    --encoding=UTF8 --locale=C --no-sync >"$log" 2>&1 || fail_with_log "initdb failed" "$log"
  for _ in 1 2 3 4 5; do
    port=$((20000 + RANDOM % 12000))
    options="-c listen_addresses=127.0.0.1 -c port=$port -c unix_socket_directories=$postgres_dir"
    options+=" -c max_connections=300 -c fsync=off -c full_page_writes=off -c synchronous_commit=off"
    if as_postgres "$postgres_bin/pg_ctl" start --wait --timeout=60 --silent \
      --pgdata=data --log=server.log --options="$options" >>"$log" 2>&1 </dev/null; then
      export MOLECULE_TEST_POSTGRES_URL="postgres://postgres@127.0.0.1:$port/postgres"
      return
    fi
  done
  cat "$postgres_dir/server.log" >>"$log" || true
  fail_with_log "PostgreSQL did not start" "$log"
}

stop_services() {
  if [[ -n "$postgres_dir" ]]; then
    if [[ -e "$postgres_dir/data/postmaster.pid" ]]; then
      as_postgres "$postgres_bin/pg_ctl" stop --mode=immediate --silent --pgdata=data
    fi
    cp "$postgres_dir/server.log" "$services_log/postgres-server.log"
    rm -rf "$postgres_dir"
  fi >/dev/null 2>&1
  if [[ -n "$dockerd_pid" ]]; then
    "${as_root[@]}" kill "$dockerd_pid"
    wait_for 30 test ! -d "/proc/$dockerd_pid" || "${as_root[@]}" kill -9 "$dockerd_pid"
  fi >/dev/null 2>&1
  if [[ -n "$docker_unit" ]]; then
    "${as_root[@]}" systemctl stop docker.socket docker
  fi >/dev/null 2>&1
}
