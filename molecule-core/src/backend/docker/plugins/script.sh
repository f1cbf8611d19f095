# Does in an image with a shell what the helper program does: see program.rs. Says the
# same on standard output, and ends with the same codes. Every parameter is a parameter;
# no part of this text comes from anywhere else.
LC_ALL=C
export LC_ALL
umask 022
own=$1 seconds=$2 op=$3 configs=$4
shift 4
plugins=$configs/plugins
staging=$plugins/.staging
previous=$plugins/.previous
digit='[0-9]'
two=$digit$digit
hex='[0-9a-f]'
stamp_is=$two$two$two${two}T$two$two${two}Z
mark_is=$hex$hex$hex$hex$hex$hex$hex$hex

# What is done is not left half-way because nobody listens.
trap '' PIPE
# Whoever called does not wait longer. What ran on would act on what it saw long ago.
clock() {
  # A child that is not a sleep yet would catch any other signal, and forget it.
  trap 'kill -9 "$!" 2>/dev/null; wait; exit' TERM
  sleep "$1" &
  wait "$!" || exit
  # Not somebody else who has the number by now.
  case $(tr -d '\000' <"/proc/$$/cmdline") in
  *molecule-plugins*) kill -9 "$$" ;;
  esac
}
clock "$seconds" </dev/null >/dev/null 2>&1 &
clock=$!
trap 'kill "$clock" 2>/dev/null; wait "$clock"' EXIT

echo "molecule-plugins 1"

exists() { [ -e "$1" ] || [ -L "$1" ]; }
is_folder() { [ -d "$1" ] && [ ! -L "$1" ]; }
is_file() { [ -f "$1" ] && [ ! -L "$1" ]; }
failed() {
  echo "failed 0 0"
  exit "$1"
}
left() { echo "left 0 $(printf %s "${1##*/}" | tr -c '!-~' '?')"; }
gone() {
  rm -rf -- "$1" || :
  if exists "$1"; then left "$1"; fi
}
# A rename that neither lands inside a folder nor replaces anything.
move() {
  exists "$2" && return 1
  mv -T -- "$1" "$2" 2>/dev/null && return 0
  # It failed, or there is no -T.
  { exists "$1" && ! exists "$2"; } || return 1
  mv -- "$1" "$2" || return 1
  # Somebody put a folder there in this moment.
  if exists "$2/${1##*/}"; then
    mv -- "$2/${1##*/}" "$1"
    return 1
  fi
}
written() {
  command -v sync >/dev/null 2>&1 || return 0
  sync -f "$1" 2>/dev/null || sync
}
ensure() {
  for folder in "$plugins" "$staging" "$previous"; do
    is_folder "$folder" && continue
    if exists "$folder"; then rm -f -- "$folder"; fi
    mkdir "$folder" || failed 10
  done
}
# Sets plugin, stamp and time for <plugin>.<stamp>[-<mark>]; fails for anything else.
parts() {
  plugin=${1%.*} stamp=${1##*.}
  case $stamp in
  $stamp_is | $stamp_is-$mark_is) ;;
  *) return 1 ;;
  esac
  time=${stamp%%Z*}
  time=${time%T*}${time#*T}
  [ -n "$plugin" ] && [ "$plugin" != "$1" ]
}
is_plugin() {
  case $1 in
  '' | *[!A-Za-z0-9._-]* | *..* | [!A-Za-z0-9]*) return 1 ;;
  esac
}
# Moves a previous tree to where things are deleted.
discard() {
  exists "$staging/${1##*/}" && rm -rf -- "$staging/${1##*/}"
  move "$1" "$staging/${1##*/}"
}
repair() {
  limit=${1%Z}
  limit=${limit%T*}${limit#*T}
  for entry in "$previous"/*; do
    exists "$entry" && parts "${entry##*/}" || continue
    if is_plugin "$plugin" && ! exists "$plugins/$plugin"; then
      wanted=$plugin newest=
      for other in "$previous/$wanted".*; do
        # Sorted by name, which begins alike: the last is the newest.
        if exists "$other" && parts "${other##*/}" && [ "$plugin" = "$wanted" ]; then
          newest=$other
        fi
      done
      if [ -n "$newest" ]; then
        if move "$newest" "$plugins/$wanted"; then
          echo "restored $wanted"
          [ "$newest" = "$entry" ] && continue
        else
          left "$newest"
        fi
      fi
      parts "${entry##*/}" || continue
    fi
    if [ "$time" -lt "$limit" ]; then discard "$entry" || left "$entry"; fi
  done
  for entry in "$staging"/* "$staging"/.[!.]*; do
    if exists "$entry" && parts "${entry##*/}" && [ "$time" -lt "$limit" ]; then
      gone "$entry"
    fi
  done
}
swap() {
  name=$1 entry=$1$2 cutoff=$3 entries=$4 bytes=$5
  live=$plugins/$name staged=$staging/$1$2 aside=$previous/$1$2
  ensure
  repair "$cutoff"
  refused() {
    gone "$staged"
    failed "$1"
  }
  { is_folder "$staged" && is_file "$staged/.complete"; } || refused 12
  # What is looked at stays what it is, whatever is called so later.
  exec 3<"$staged"
  is_verified() { [ /proc/self/fd/3 -ef "$1" ]; }
  # Counted without trusting names, which may hold anything.
  there=$(find "$staged" -exec sh -c 'for entry; do echo; done' sh {} + | wc -l) || refused 12
  strange=$(find "$staged" ! -type d ! -type f -exec sh -c 'for entry; do echo; done' sh {} + |
    wc -l) || refused 12
  said=$(find "$staged" -type f -exec cat -- {} + | wc -c) || refused 12
  [ "$((there - 1))" -eq "$entries" ] && [ "$((said))" -eq "$bytes" ] &&
    [ "$((strange))" -eq 0 ] || refused 12
  written "$staged" || refused 13
  is_verified "$staged" || refused 12
  if exists "$live" && mv --exchange -T -- "$staged" "$live" 2>/dev/null; then
    if ! is_verified "$live"; then
      mv --exchange -T -- "$staged" "$live" || failed 30
      refused 15
    fi
  else
    had=
    if exists "$live"; then
      move "$live" "$aside" || refused 14
      had=1
    fi
    if ! { move "$staged" "$live" && is_verified "$live"; }; then
      # Something else had its name.
      if exists "$live" && ! move "$live" "$staged"; then failed 30; fi
      if [ -n "$had" ] && ! move "$aside" "$live"; then failed 30; fi
      refused 15
    fi
    if [ -n "$had" ]; then discard "$aside" || left "$aside"; fi
  fi
  written "$plugins" || left sync
  gone "$staged"
}
remove() {
  name=$1 suffix=$2
  shift 2
  # The server edits that file: no shell can be trusted with its bytes.
  if is_file "$configs/CLAUDE.md"; then echo memory; fi
  ensure
  if is_folder "$configs/skills"; then
    for skill; do
      exists "$configs/skills/$skill" || continue
      if move "$configs/skills/$skill" "$staging/.skill-$skill$suffix"; then
        gone "$staging/.skill-$skill$suffix"
      else
        left "$skill"
      fi
    done
  fi
  for entry in "$previous/$name".*; do
    exists "$entry" && parts "${entry##*/}" && [ "$plugin" = "$name" ] || continue
    discard "$entry" || failed 16
    gone "$staging/${entry##*/}"
  done
  if exists "$plugins/$name"; then
    move "$plugins/$name" "$staging/$name$suffix" || failed 16
  fi
  written "$plugins" || left sync
  gone "$staging/$name$suffix"
}
list() {
  for folder in "$plugins"/*; do
    is_folder "$folder" && is_plugin "${folder##*/}" || continue
    manifest=$folder/plugin.yaml marker=$folder/.complete
    said=- marked=-
    if is_file "$manifest" && [ -r "$manifest" ]; then
      said=$(dd if="$manifest" bs=65536 count=1 2>/dev/null | wc -c)
      said=$((said))
    fi
    if is_file "$marker" && [ -r "$marker" ]; then
      marked=$(dd if="$marker" bs=4096 count=1 2>/dev/null | wc -c)
      marked=$((marked))
    fi
    echo "plugin $said $marked ${folder##*/}"
    if [ "$said" != - ]; then dd if="$manifest" bs=65536 count=1 2>/dev/null; fi
    if [ "$marked" != - ]; then dd if="$marker" bs=4096 count=1 2>/dev/null; fi
  done
}

rm -f -- "$staging/$own"
case $op in
swap) swap "$@" ;;
remove) remove "$@" ;;
repair) if is_folder "$plugins"; then ensure && repair "$1"; fi ;;
discard)
  if is_folder "$staging"; then
    for entry; do gone "$staging/$entry"; done
  fi
  ;;
list) if is_folder "$plugins"; then list; fi ;;
memory)
  memory=$configs/CLAUDE.md
  if is_file "$memory" && [ "$(($(wc -c <"$memory")))" -eq "$2" ]; then
    mv -f -- "$staging/$1" "$memory" || left CLAUDE.md
  fi
  gone "$staging/$1"
  ;;
*) exit 2 ;;
esac
echo done
