/// One rule of the contract kit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rule {
    /// Its stable name, as in [`Violation::id`](super::Violation::id) and in verdicts.
    pub name: &'static str,
    /// When it is broken.
    pub broken_when: &'static str,
}

/// Number of the set of rules below, written into every verdict. It grows whenever a rule
/// comes, goes or gets sharper, so that authors renew their verdicts.
pub const KIT_VERSION: u32 = 1;

/// Writes a list of rules, and the same list as the table of its documentation.
macro_rules! rules {
    ($(#[$doc:meta])* $list:ident { $($name:literal: $broken_when:literal,)* }) => {
        $(#[$doc])*
        ///
        /// | rule | it is broken when |
        /// |---|---|
        $(#[doc = concat!("| `", $name, "` | ", $broken_when, " |")])*
        pub const $list: &[Rule] = &[
            $(Rule { name: $name, broken_when: $broken_when },)*
        ];
    };
}

rules! {
    /// The rules about linking and configuration, of hooks and of plugin sources.
    SECTION_RULES {
        "not-linked": "nothing of this name is linked into the test",
        "linked-twice": "two of this name are",
        "bad-description": "its description is empty or has several lines",
        "bad-field": "a key of `FIELDS` is not snake_case, has no description of one line, or \
            names a variable that cannot exist or that another key names too",
        "field-listed-twice": "`FIELDS` has a key twice",
        "field-not-decoded": "`FIELDS` has a key its config type does not read",
        "key-not-in-fields": "its config type reads a key that `FIELDS` does not have",
        "config-panics": "some section makes it panic",
        "valid-section-refused": "the section given to the contract does not build",
        "valid-section-skipped": "the section given to the contract builds nothing",
        "unknown-key-accepted": "it builds from a section with an unknown key",
        "empty-section": "the empty section fails with something else than a config error",
        "example-refused": "an example in `FIELDS` does not decode",
        "required-not-required": "it builds without a field marked as required",
        "config-does-io": "decoding or validating a section reads, writes or connects",
    }
}

rules! {
    /// The rules about the calls of a hook.
    CALL_RULES {
        "name-mismatch": "it calls itself something else than its registered name",
        "invalid-name": "its name is not lower-kebab",
        "call-panics": "a call in ordinary conditions panics",
        "call-timeout": "a call does not return within the deadline",
        "call-failed": "a call in ordinary conditions fails",
        "env-key-invalid": "it writes a variable whose name is no name or is the platform's, \
            even if it ignores the refusal",
        "env-value-invalid": "it writes a value that no environment can carry: with a NUL byte \
            or over 64 KiB",
        "env-expired": "it writes a variable that has expired already",
        "secret-visible": "a variable it writes holds a secret and is not marked as one",
        "not-idempotent": "a second call fails or sets other variables",
        "not-concurrent": "one of 32 calls at once fails or sets other variables",
        "not-cancel-safe": "a call fails after another one was dropped half-way",
        "hostile-env-panics": "an empty, huge or odd environment makes it panic",
        "hostile-workspace-panics": "odd ids, names or roles make it panic",
    }
}

rules! {
    /// The rules about the tokens of a hook that serves them.
    TOKEN_RULES {
        "token-provider-undeclared": "it serves tokens without `token_provider: true`",
        "token-service-invalid": "its `service()` is not one lower-case word, or changes",
        "token-panics": "asking for a token panics, for an odd workspace too",
        "token-timeout": "a token does not come within the deadline",
        "token-failed": "asking for a token fails",
        "token-empty": "the token is the empty string",
        "token-expired": "the token has expired when it comes",
        "token-endless": "the token claims to live longer than ten years",
        "token-overstated": "the token claims to live longer than its issuer said",
        "token-not-concurrent": "one of 20 requests at once fails",
        "token-not-cancel-safe": "a request fails after another one was dropped half-way",
        "token-undated": "a variable holds the token without its end, or with a later one",
        "token-outlived": "after its end the same token, or another expired one, is served",
    }
}

rules! {
    /// The rules about the calls of a plugin source.
    SOURCE_RULES {
        "scheme-mismatch": "it answers to another scheme than it was registered with",
        "invalid-scheme": "no text can name its scheme",
        "check-panics": "some text makes `check` or another look at it panic",
        "check-does-io": "`check` or another look at a text reads, writes or connects",
        "refused-otherwise": "it refuses a spec with something else than `InvalidSpec`",
        "spec-accepted": "it accepts a spec that the contract was told is none",
        "spec-refused": "it refuses the spec given to the contract",
        "fetch-failed": "fetching the spec fails",
        "fetch-panics": "fetching panics",
        "fetch-timeout": "fetching does not end within the deadline",
        "bad-name": "what it fetched has a name no plugin can have, or another one than was \
            expected",
        "unsafe-tree": "it left a link or something that is no file in the folder",
        "writes-outside": "it left something beside the folder it was given",
        "not-repeatable": "fetching again fails or brings something else",
        "not-concurrent": "one of eight fetches at once fails or brings something else",
        "not-cancel-safe": "a fetch fails after another one was dropped half-way",
        "missing-not-told": "what is not there is not `NotFound`",
        "limits-misnamed": "a tree over the limits is refused with something else than \
            `TooLarge`",
        "pinned-refused": "it does not accept the spec that means exactly what it fetched",
        "resolve-failed": "asking its upstream fails",
        "resolve-panics": "asking its upstream panics",
        "resolve-timeout": "asking its upstream does not end within the deadline",
        "resolve-miscounts": "it answers more or fewer revisions than it was asked for",
        "resolve-invents": "it names a revision for a tag that does not exist",
    }
}

rules! {
    /// The rules that are watched over during all the others.
    COMMON_RULES {
        "secret-in-error": "a secret can be read in one of its errors",
        "secret-in-log": "a secret can be read in its log",
        "blocks-the-thread": "a call keeps its thread waiting for a second or more",
        "task-left-behind": "a task it started still runs after it was dropped",
    }
}

/// What a hook is checked for, in the order of a verdict.
pub(super) const HOOK: &[&[Rule]] = &[SECTION_RULES, CALL_RULES, TOKEN_RULES, COMMON_RULES];

/// The same for a plugin source.
pub(super) const SOURCE: &[&[Rule]] = &[SECTION_RULES, SOURCE_RULES, COMMON_RULES];
