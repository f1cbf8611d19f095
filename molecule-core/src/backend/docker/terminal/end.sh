mark=$1 leader=$2
# Not every grep sees what follows a NUL without -z, or knows -z.
if echo x | grep -qszF x 2>/dev/null; then
  marked() { grep -qszF "$mark" "/proc/$1/environ"; }
  # The number may be that of another process by now.
  [ "$leader" = 0 ] || marked "$leader" || leader=0
else
  marked() { false; }
fi
# Sends $signal to all that is left; true when something was.
left() {
  found=1
  for dir in /proc/[0-9]*; do
    pid=${dir#/proc/}
    [ "$pid" = "$$" ] && continue
    { read -r line < "$dir/stat"; } 2>/dev/null || continue
    # State, parent, group and session follow the name, which may contain anything.
    set -- ${line##*) }
    [ "$1" = Z ] && continue
    { [ "$leader" != 0 ] && [ "$4" = "$leader" ]; } || marked "$pid" || continue
    found=0
    kill "-$signal" "$pid" 2>/dev/null
  done
  return $found
}
pause() { sleep 0.1 2>/dev/null || sleep 1 2>/dev/null; }
signal=HUP
left || exit 0
signal=0
for try in 1 2 3 4 5 6 7 8 9 10; do
  pause
  left || exit 0
done
signal=KILL
for try in 1 2 3 4 5 6 7 8 9 10; do
  left || exit 0
  pause
done
left && exit 1
exit 0
