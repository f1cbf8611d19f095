#!/bin/sh
# molecule-gh-wrapper: signs what an agent writes on GitHub.
#
# Install as /usr/local/bin/gh, in front of the real gh. Configured by the
# environment: MOLECULE_AGENT_ROLE (without it this is a pass-through),
# MOLECULE_OWNER, MOLECULE_WORKSPACE_ID, MOLECULE_ATTRIBUTION_BADGE and
# MOLECULE_GH_LOG (default /var/log/molecule-gh.ndjson).
#
# POSIX sh, so that it runs in every image. Arguments are only ever moved
# through "$@", never through text, and so survive whatever they hold. All
# variables start with mgh_, so that none of the caller's changes its value.

mgh_nl='
'

# True for this script and for copies of it: the second line tells.
is_wrapper() {
    mgh_first='' mgh_second=''
    { IFS= read -r mgh_first && IFS= read -r mgh_second; } 2>/dev/null <"$1"
    case $mgh_first$mgh_second in
    '#!/bin/sh# molecule-gh-wrapper:'*) return 0 ;;
    esac
    return 1
}

usable() {
    [ -f "$1" ] && [ -x "$1" ] && ! is_wrapper "$1"
}

# Sets $mgh_real to the gh behind us.
find_real() {
    for mgh_real in /usr/bin/gh /opt/gh/bin/gh /usr/local/bin/gh.real; do
        usable "$mgh_real" && return 0
    done
    mgh_rest=${PATH:-}:
    while [ -n "$mgh_rest" ]; do
        mgh_real=${mgh_rest%%:*}/gh
        mgh_rest=${mgh_rest#*:}
        # An empty entry would mean the current directory, which is not ours.
        [ "$mgh_real" != /gh ] && usable "$mgh_real" && return 0
    done
    return 1
}

# Sets $mgh_what to "<group> <command>", such as "issue create".
find_command() {
    mgh_what=${1:-}
    [ $# -gt 0 ] && shift
    while [ $# -gt 0 ]; do
        case $1 in
        -R | --repo) [ $# -gt 1 ] && shift ;;
        -*) ;;
        *)
            mgh_what="$mgh_what $1"
            return 0
            ;;
        esac
        shift
    done
}

# Appends one NDJSON line. Never fails, never reads standard input.
log_call() {
    mgh_log=${MOLECULE_GH_LOG:-/var/log/molecule-gh.ndjson}
    # Opening a pipe that nobody reads would block.
    [ -p "$mgh_log" ] && return 0
    mgh_line=$(
        printf '%s\000' "$mgh_started" "$MOLECULE_AGENT_ROLE" "${MOLECULE_WORKSPACE_ID:-}" \
            "${MOLECULE_OWNER:-}" "$@" | LC_ALL=C od -An -v -tu1 | LC_ALL=C awk -v rc="$mgh_rc" '
            # Reads bytes as numbers, one string per NUL, and writes plain ASCII
            # JSON, so that neither locale nor broken UTF-8 matters. Strings are
            # cut, which keeps the line in one write.
            function put(code) {
                if (length(text) >= 1000) { cut = 1; return }
                if (code == 34) text = text "\\\""
                else if (code == 92) text = text "\\\\"
                else if (code == 10) text = text "\\n"
                else if (code == 9) text = text "\\t"
                else if (code >= 32 && code < 127) text = text sprintf("%c", code)
                else if (code < 65536) text = text sprintf("\\u%04x", code)
                else text = text sprintf("\\u%04x\\u%04x", \
                    55296 + int((code - 65536) / 1024), 56320 + (code - 65536) % 1024)
            }
            function broken() { if (more > 0) { more = 0; put(65533) } }
            function byte(b) {
                if (more > 0 && b >= 128 && b < 192) {
                    code = code * 64 + b - 128
                    if (--more > 0) return
                    if (code < least || code > 1114111 || (code >= 55296 && code < 57344)) code = 65533
                    put(code)
                    return
                }
                broken()
                if (b < 128) put(b)
                else if (b >= 194 && b < 224) { more = 1; code = b - 192; least = 128 }
                else if (b >= 224 && b < 240) { more = 2; code = b - 224; least = 2048 }
                else if (b >= 240 && b < 245) { more = 3; code = b - 240; least = 65536 }
                else put(65533)
            }
            # Values that are credentials stay out of the log.
            function mask() {
                gsub(/gh[opsru]_[A-Za-z0-9_]+|github_pat_[A-Za-z0-9_]+/, "[REDACTED]", text)
                sub(/[Aa][Uu][Tt][Hh][Oo][Rr][Ii][Zz][Aa][Tt][Ii][Oo][Nn]:.*/, \
                    "Authorization: [REDACTED]", text)
                if (group != "secret") return
                if (before == "--body" || before == "-b") text = "[REDACTED]"
                else if (text ~ /^--body=/) text = "--body=[REDACTED]"
                else if (text ~ /^-b./) text = "-b[REDACTED]"
            }
            function finish() {
                broken()
                field++
                if (field == 5) group = text
                raw = text
                if (field > 4) mask()
                before = raw
                if (cut) text = text "\\u2026"
                if (field <= 4) out = out name[field] "\"" text "\""
                else if (length(out) < 6000) {
                    out = out (field > 5 ? "," : "") "\"" text "\""
                } else if (!full) { full = 1; out = out ",\"\\u2026\"" }
                if (field == 4) out = out ",\"rc\":" rc ",\"argv\":["
                text = ""; cut = 0
            }
            BEGIN {
                name[1] = "{\"ts\":"; name[2] = ",\"role\":"
                name[3] = ",\"workspace_id\":"; name[4] = ",\"owner\":"
            }
            { for (i = 1; i <= NF; i++) if ($i + 0 == 0) finish(); else byte($i + 0) }
            END { if (field > 3) print out "]}" }
        '
    )
    [ -n "$mgh_line" ] && printf '%s\n' "$mgh_line" >>"$mgh_log"
    return 0
}

if ! find_real; then
    echo 'gh: the GitHub CLI is not installed' >&2
    exit 127
fi
[ -n "${MOLECULE_AGENT_ROLE:-}" ] || exec "$mgh_real" "$@"

mgh_badge=${MOLECULE_ATTRIBUTION_BADGE:-}
mgh_owner=${MOLECULE_OWNER:-}
find_command "$@"

# Which option holds the text to sign (--body or --notes, with its short form),
# whether -a means --assignee, and which other short options take a value: the
# same letter means different things to different commands.
mgh_kind='' mgh_assignee='' mgh_short=''
case $mgh_what in
'issue create' | 'issue new' | 'issue edit' | 'pr create' | 'pr new' | 'pr edit')
    mgh_kind=body mgh_assignee=a mgh_short=BFHlmprtT
    ;;
'issue comment' | 'pr comment' | 'pr review')
    mgh_kind=body mgh_short=F
    ;;
'release create' | 'release new' | 'release edit')
    mgh_kind=notes mgh_short=Ft
    ;;
'discussion create')
    mgh_kind=body mgh_short=cFt
    ;;
'issue list' | 'pr list')
    mgh_assignee=a mgh_short=ABHlLmqSst
    ;;
esac
# Empty as soon as there is nothing left to sign.
mgh_unsigned=$mgh_kind
[ -n "$mgh_badge" ] || mgh_unsigned=''

# Puts badge and blank line before $mgh_text, once.
sign() {
    case $mgh_text in
    "$mgh_badge"*) ;;
    *) mgh_text=$mgh_badge$mgh_nl$mgh_nl$mgh_text ;;
    esac
    mgh_unsigned=''
}

# Walks over the arguments: takes each from the front, puts what shall stay at
# the end. $mgh_state says what the next one is the value of.
mgh_state='' mgh_held=''
mgh_left=$#
while [ "$mgh_left" -gt 0 ]; do
    mgh_text=$1
    shift
    mgh_left=$((mgh_left - 1))
    case $mgh_state in
    body)
        mgh_state=''
        sign
        set -- "$@" "$mgh_text"
        continue
        ;;
    assignee)
        mgh_state=''
        if [ "$mgh_text" = @me ]; then
            [ -n "$mgh_owner" ] || continue
            mgh_text=$mgh_owner
        fi
        set -- "$@" "$mgh_held" "$mgh_text"
        continue
        ;;
    value)
        mgh_state=''
        set -- "$@" "$mgh_text"
        continue
        ;;
    end)
        set -- "$@" "$mgh_text"
        continue
        ;;
    esac

    case $mgh_text in
    --) mgh_state=end ;;
    --assignee)
        # Held back until its value is known.
        mgh_held=$mgh_text
        if [ "$mgh_left" -gt 0 ]; then
            mgh_state=assignee
            continue
        fi
        ;;
    --assignee=@me)
        [ -n "$mgh_owner" ] || continue
        mgh_text=--assignee=$mgh_owner
        ;;
    -a)
        if [ -n "$mgh_assignee" ]; then
            mgh_held=$mgh_text
            if [ "$mgh_left" -gt 0 ]; then
                mgh_state=assignee
                continue
            fi
        fi
        ;;
    -a@me | -a=@me)
        if [ -n "$mgh_assignee" ]; then
            [ -n "$mgh_owner" ] || continue
            mgh_text=-a$mgh_owner
        fi
        ;;
    --body)
        mgh_state=value
        [ -n "$mgh_unsigned" ] && mgh_state=body
        ;;
    --notes)
        mgh_state=value
        [ "$mgh_unsigned" = notes ] && mgh_state=body
        ;;
    --body=*)
        if [ -n "$mgh_unsigned" ]; then
            mgh_text=${mgh_text#--body=}
            sign
            mgh_text=--body=$mgh_text
        fi
        ;;
    --notes=*)
        if [ "$mgh_unsigned" = notes ]; then
            mgh_text=${mgh_text#--notes=}
            sign
            mgh_text=--notes=$mgh_text
        fi
        ;;
    -b | -n)
        case $mgh_text$mgh_kind in
        -bbody | -nnotes)
            mgh_state=value
            [ -n "$mgh_unsigned" ] && mgh_state=body
            ;;
        esac
        ;;
    -b?*)
        if [ "$mgh_unsigned" = body ]; then
            mgh_text=${mgh_text#-b}
            mgh_text=${mgh_text#=}
            sign
            mgh_text=-b$mgh_text
        fi
        ;;
    -n?*)
        if [ "$mgh_unsigned" = notes ]; then
            mgh_text=${mgh_text#-n}
            mgh_text=${mgh_text#=}
            sign
            mgh_text=-n$mgh_text
        fi
        ;;
    --add-* | --remove-* | --title | --body-file | --notes-file | --label | --milestone | \
        --project | --template | --repo | --base | --head | --reviewer | --recover | --target | \
        --notes-start-tag | --discussion-category | --category | --tag)
        # Their value may look like an option and must not be taken for one. With
        # "=" they hold it themselves; --remove-milestone has none.
        case $mgh_text in
        *=* | --remove-milestone) ;;
        *) mgh_state=value ;;
        esac
        ;;
    -R) mgh_state=value ;;
    -[!-])
        case $mgh_short in
        *"${mgh_text#-}"*) mgh_state=value ;;
        esac
        ;;
    esac
    set -- "$@" "$mgh_text"
done

mgh_started=$(date -u +%Y-%m-%dT%H:%M:%SZ 2>/dev/null)
"$mgh_real" "$@"
mgh_rc=$?
(log_call "$@") 2>/dev/null
exit "$mgh_rc"
