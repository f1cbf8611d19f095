# Fills in a template of templates/: sourced by scripts/new-server and new-hook.
#
# Gives what `cargo generate` gives, without needing it. It knows the little that
# the templates use: {{name}} with and without `| upcase`, and `{%- if NAME %}` or
# `{%- unless NAME %}` with its end on lines of their own.

repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
program="$(basename "$0")"

fail() { printf '%s: %s\n' "$program" "$*" >&2; exit 1; }

# The comment at the top of the script.
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; }

# A name that is a crate, a section of molecule.yaml and a part of variables.
check_name() {
  [[ "$1" =~ ^[a-z][a-z0-9]*(-[a-z0-9]+)*$ ]] ||
    fail "the name \"$1\" must be lower-kebab: a-z, 0-9 and single hyphens, with a letter first"
  ((${#1} <= 60)) || fail "the name may have 60 characters"
  case "${1//-/_}" in
    abstract | as | async | await | become | box | break | const | continue | crate | do | dyn | else | enum | \
      extern | false | final | fn | for | gen | if | impl | in | let | loop | macro | match | mod | move | mut | \
      override | priv | pub | ref | return | self | static | struct | super | trait | true | try | type | \
      typeof | unsafe | unsized | use | virtual | where | while | yield)
      fail "the name \"$1\" is a word of Rust" ;;
    alloc | core | proc_macro | std | test | build | deps | examples | incremental)
      fail "the name \"$1\" is taken by Rust or cargo" ;;
    molecule_build | molecule_core | molecule_hooks | molecule_echo_agent | anyhow | reqwest | serde | serde_json | tempfile | tokio)
      fail "the name \"$1\" is that of a crate which is used beside it" ;;
  esac
}

# render TEMPLATE FOLDER NAME MOLECULE_PATH TOKEN_PROVIDER
render() {
  local from="$repository/templates/$1" to="$2" file
  mkdir -p "$to"
  while IFS= read -r -d '' file; do
    file="${file#./}"
    case "$file" in
      cargo-generate.toml) continue ;;
      src/token.rs) [[ "$5" == true ]] || continue ;;
    esac
    mkdir -p "$to/$(dirname "$file")"
    NAME="$3" MOLECULE_PATH="$4" TOKEN_PROVIDER="$5" fill "$from/$file" >"$to/$file"
    if [[ -x "$from/$file" ]]; then chmod +x "$to/$file"; fi
  done < <(cd "$from" && find . \( -name target -o -name data \) -prune -o -type f -print0)
}

fill() {
  awk '
    # Texts, not patterns: a path may hold anything.
    function replace(line, old, new,   at, done) {
      while (at = index(line, old)) {
        done = done substr(line, 1, at - 1) new
        line = substr(line, at + length(old))
      }
      return done line
    }
    function holds(condition) {
      if (condition == "token_provider") return ENVIRON["TOKEN_PROVIDER"] == "true"
      if (condition == "molecule_path != \"\"") return ENVIRON["MOLECULE_PATH"] != ""
      print FILENAME ": unknown condition " condition > "/dev/stderr"
      exit 1
    }
    BEGIN {
      name = crate = upper = ENVIRON["NAME"]
      gsub(/-/, "_", crate)
      upper = toupper(crate)
    }
    # A tag with a hyphen takes the white space before it along.
    /^\{%- .* %\}$/ {
      tag = substr($0, 5, length($0) - 7)
      sub(/[ \t\n]+$/, "", text)
      if (tag ~ /^if /) skip = !holds(substr(tag, 4))
      else if (tag ~ /^unless /) skip = holds(substr(tag, 8))
      else skip = 0
      next
    }
    skip { next }
    {
      line = replace($0, "{{project-name}}", name)
      line = replace(line, "{{crate_name}}", crate)
      line = replace(line, "{{crate_name | upcase}}", upper)
      line = replace(line, "{{molecule_path}}", ENVIRON["MOLECULE_PATH"])
      text = text (lines++ ? "\n" : "") line
    }
    END { print text }
  ' "$1"
}

# Reads the options that both scripts have; sets name, folder, molecule and
# token_provider, and the rest of the words.
read_arguments() {
  name='' folder='' molecule=vendor token_provider=false
  while (($#)); do
    case "$1" in
      -h | --help) usage; exit 0 ;;
      --to) folder="${2:-}"; [[ -n "$folder" ]] || fail "--to wants a folder"; shift ;;
      --molecule) molecule="${2:-}"; [[ -n "$molecule" ]] || fail "--molecule wants a folder"; shift ;;
      --released) molecule='' ;;
      --token-provider) token_provider=true ;;
      -*) fail "unknown option $1; --help lists them" ;;
      *) [[ -z "$name" ]] || fail "one name is enough: $name, $1"; name="$1" ;;
    esac
    shift
  done
  [[ -n "$name" ]] || { usage >&2; exit 2; }
  check_name "$name"
  folder="${folder:-$name}"
  [[ ! -e "$folder" || -z "$(ls -A "$folder" 2>/dev/null || echo not a folder)" ]] ||
    fail "$folder is there already; choose another place with --to"
}

# Makes the folder; with the crates of Molecule in it, unless told otherwise.
create() {
  local path="$molecule"
  case "$molecule" in
    '') ;;
    vendor) path=vendor/molecule ;;
    *)
      [[ -f "$molecule/molecule-core/Cargo.toml" ]] ||
        fail "$molecule has no molecule-core; scripts/packages makes such a folder, and a checkout is one"
      path="$(cd "$molecule" && pwd)"
      [[ "$path" != *[\"\\{}]* ]] || fail "the path $path cannot stand in a Cargo.toml"
      ;;
  esac
  render "$1" "$folder" "$name" "$path" "$token_provider"
  if [[ "$molecule" == vendor ]]; then
    "$repository/scripts/packages" "$folder/vendor/molecule" >/dev/null
  fi
}
