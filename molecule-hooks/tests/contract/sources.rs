//! Sources of plugins that are in order, and those that are not.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use molecule_hooks::testing::{
    COMMON_RULES, PluginSourceContract, SECTION_RULES, SOURCE_RULES, assert_plugin_source_contract,
};
use molecule_hooks::{
    BuildContext, BuildSourceResult, ConfigField, FetchRequest, FetchedPlugin, HookConfig,
    NoConfig, PluginRef, PluginSource, PluginSourceError, Secret, async_trait,
    register_plugin_source, tracing,
};
use serde_json::json;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    token: Secret,
}

impl HookConfig for Config {
    const FIELDS: &'static [ConfigField] = &[ConfigField::new("token", "who asks")
        .secret()
        .required()
        .example("abc")];
}

fn build(config: Config, _: &BuildContext) -> BuildSourceResult {
    Ok(Some(Arc::new(Store::new(How::Well, config.token))))
}

register_plugin_source! {
    name: "shelf",
    scheme: "shelf",
    description: "Plugins that are always there",
    config: Config,
    build: build,
}

/// One plugin, served in the way it is told.
struct Store {
    how: How,
    token: Secret,
    calls: AtomicUsize,
    busy: AtomicBool,
}

impl Store {
    fn new(how: How, token: Secret) -> Self {
        Self {
            how,
            token,
            calls: AtomicUsize::new(0),
            busy: AtomicBool::new(false),
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum How {
    Well,
    BadScheme,
    PanicsOnOddSpecs,
    RefusesWithOtherWords,
    Fails,
    Panics,
    Hangs,
    NamesItOtherwise,
    NamesItBadly,
    LeavesALink,
    ChangesEachTime,
    RefusesCompany,
    StaysBusyWhenDropped,
    FailsForWhatIsMissing,
    CallsLimitsAFailure,
    QuotesItsToken,
    ResolvesTooFew,
    FailsToResolve,
    PinsToNonsense,
    AnswersToAnotherScheme,
    ConnectsWhenItChecks,
    WritesOutside,
    KeepsTheThreadWaiting,
    LogsItsToken,
    PanicsWhenItResolves,
    HangsWhenItResolves,
    InventsRevisions,
}

#[async_trait]
impl PluginSource for Store {
    fn scheme(&self) -> &str {
        match self.how {
            How::BadScheme => "my shelf",
            How::AnswersToAnotherScheme => "board",
            _ => "shelf",
        }
    }

    fn check(&self, spec: &str) -> Result<(), PluginSourceError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '@');
        if self.how == How::PanicsOnOddSpecs {
            let _ = &spec[..1];
        }
        if self.how == How::ConnectsWhenItChecks
            && let Ok(address) = spec.parse::<std::net::SocketAddr>()
        {
            drop(std::net::TcpStream::connect(address));
        }
        if !spec.is_empty() && spec.len() < 100 && spec.chars().all(plain) {
            return Ok(());
        }
        let text = format!("no such spec {}", spec.len());
        Err(match self.how {
            How::RefusesWithOtherWords => PluginSourceError::Failed(text),
            _ => PluginSourceError::InvalidSpec(text),
        })
    }

    async fn fetch(&self, request: FetchRequest<'_>) -> Result<FetchedPlugin, PluginSourceError> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        let failed = |text: &str| Err(PluginSourceError::Failed(text.to_owned()));
        let Some((name, version)) = request
            .spec
            .split_once('@')
            .filter(|(name, _)| *name == "careful")
        else {
            return match self.how {
                How::FailsForWhatIsMissing => failed("not there"),
                _ => Err(PluginSourceError::NotFound(request.spec.to_owned())),
            };
        };
        if request.limits.entries < 1 {
            return match self.how {
                How::CallsLimitsAFailure => failed("too many"),
                _ => Err(PluginSourceError::TooLarge("one file".to_owned())),
            };
        }
        let mut text = version.to_owned();
        match self.how {
            How::Fails => return failed("on purpose"),
            How::Panics => panic!("on purpose"),
            How::Hangs => return pending().await,
            How::QuotesItsToken => return failed(self.token.expose()),
            How::LeavesALink => {
                let link = request.destination.join("link");
                std::os::unix::fs::symlink("/etc/passwd", link).unwrap();
            }
            How::WritesOutside => {
                let beside = request.destination.with_file_name("beside");
                std::fs::write(beside, "x").unwrap();
            }
            How::KeepsTheThreadWaiting => std::thread::sleep(Duration::from_millis(1200)),
            How::LogsItsToken => tracing::info!("asked with {}", self.token.expose()),
            How::ChangesEachTime => text = call.to_string(),
            How::RefusesCompany => {
                if self.busy.swap(true, Ordering::SeqCst) {
                    return failed("busy");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
                self.busy.store(false, Ordering::SeqCst);
            }
            How::StaysBusyWhenDropped => {
                if self.busy.load(Ordering::SeqCst) {
                    return failed("busy");
                }
                // Only calls that come after all others at once are this slow.
                if call >= 10 {
                    self.busy.store(true, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    self.busy.store(false, Ordering::SeqCst);
                }
            }
            _ => {}
        }
        std::fs::write(request.destination.join("version"), text).unwrap();
        let name = match self.how {
            How::NamesItOtherwise => "careless",
            How::NamesItBadly => "../careful",
            _ => name,
        };
        Ok(FetchedPlugin::new(name).at(format!("revision-of-{version}")))
    }

    fn upstream(&self, spec: &str) -> Option<String> {
        spec.split_once('@').map(|(name, _)| name.to_owned())
    }

    async fn resolve(
        &self,
        _: &str,
        refs: &[PluginRef],
    ) -> Result<Vec<Option<String>>, PluginSourceError> {
        match self.how {
            How::ResolvesTooFew => Ok(Vec::new()),
            How::FailsToResolve => Err(PluginSourceError::Failed("on purpose".to_owned())),
            How::PanicsWhenItResolves => panic!("on purpose"),
            How::HangsWhenItResolves => pending().await,
            How::InventsRevisions => Ok(vec![Some("revision".to_owned()); refs.len()]),
            _ => {
                let known = |wanted: &PluginRef| !matches!(wanted, PluginRef::Tag(_));
                let answer = |wanted| known(wanted).then(|| "revision".to_owned());
                Ok(refs.iter().map(answer).collect())
            }
        }
    }

    fn pinned_to(&self, spec: &str, revision: &str) -> String {
        let name = spec.split('@').next().unwrap_or_default();
        match self.how {
            How::PinsToNonsense => format!("{name} at {revision}"),
            _ => format!("{name}@{revision}"),
        }
    }
}

fn with_specs(contract: PluginSourceContract) -> PluginSourceContract {
    contract
        .spec("careful@1", "careful")
        .missing("careless@1")
        .invalid("../careful")
}

#[tokio::test]
async fn a_source_that_is_in_order_breaks_nothing() {
    let contract =
        PluginSourceContract::new("shelf").section(json!({ "token": "not-a-real-token" }));
    assert_plugin_source_contract(with_specs(contract.clone())).await;

    let report = with_specs(contract).check().await.unwrap();
    let rules = [SECTION_RULES, SOURCE_RULES, COMMON_RULES].concat();
    let names: Vec<&str> = rules.iter().map(|rule| rule.name).collect();
    assert_eq!(report.checked, names);
}

/// The names are stable: renaming one breaks whoever looks for it.
#[test]
fn rules_keep_their_names() {
    let names: Vec<&str> = SOURCE_RULES.iter().map(|rule| rule.name).collect();
    assert_eq!(
        names.join(" "),
        "scheme-mismatch invalid-scheme check-panics check-does-io refused-otherwise \
         spec-accepted spec-refused fetch-failed fetch-panics fetch-timeout bad-name unsafe-tree \
         writes-outside not-repeatable not-concurrent not-cancel-safe missing-not-told \
         limits-misnamed pinned-refused resolve-failed resolve-panics resolve-timeout \
         resolve-miscounts resolve-invents"
    );
}

async fn ids(contract: PluginSourceContract) -> Vec<&'static str> {
    let violations = contract.check().await.err().unwrap_or_default();
    violations.iter().map(|violation| violation.id).collect()
}

/// A source that is registered and broken before its first call.
macro_rules! broken_source {
    ($name:literal, $config:ty, $build:expr) => {{
        fn build(config: $config, _: &BuildContext) -> BuildSourceResult {
            let build: fn($config) -> BuildSourceResult = $build;
            build(config)
        }
        register_plugin_source! {
            name: $name, scheme: "shelf", description: "x", config: $config, build: build
        }
        ids(PluginSourceContract::new($name).deadline(Duration::from_secs(2))).await
    }};
}

#[tokio::test]
async fn a_source_that_is_broken_before_its_first_call_is_found() {
    let found = broken_source!("board", NoConfig, |_| {
        let store = Store::new(How::AnswersToAnotherScheme, Secret::new("x"));
        Ok(Some(Arc::new(store)))
    });
    assert_eq!(found, ["scheme-mismatch"]);
    let found = broken_source!("litter", NoConfig, |_| {
        tokio::spawn(pending::<()>());
        Ok(Some(Arc::new(Store::new(How::Well, Secret::new("x")))))
    });
    assert_eq!(found, ["task-left-behind"]);
    let found = broken_source!("off", NoConfig, |_| Ok(None));
    assert_eq!(found, ["valid-section-skipped"]);
    let found = broken_source!("falls", NoConfig, |_| panic!("on purpose"));
    assert_eq!(found, ["config-panics"]);
}

#[tokio::test]
async fn every_broken_source_is_found_by_its_rule() {
    for (how, id) in [
        (How::BadScheme, "invalid-scheme"),
        (How::PanicsOnOddSpecs, "check-panics"),
        (How::RefusesWithOtherWords, "refused-otherwise"),
        (How::Fails, "fetch-failed"),
        (How::Panics, "fetch-panics"),
        (How::Hangs, "fetch-timeout"),
        (How::NamesItOtherwise, "bad-name"),
        (How::NamesItBadly, "bad-name"),
        (How::LeavesALink, "unsafe-tree"),
        (How::ChangesEachTime, "not-repeatable"),
        (How::RefusesCompany, "not-concurrent"),
        (How::StaysBusyWhenDropped, "not-cancel-safe"),
        (How::FailsForWhatIsMissing, "missing-not-told"),
        (How::CallsLimitsAFailure, "limits-misnamed"),
        (How::QuotesItsToken, "secret-in-error"),
        (How::ResolvesTooFew, "resolve-miscounts"),
        (How::FailsToResolve, "resolve-failed"),
        (How::PinsToNonsense, "pinned-refused"),
        (How::ConnectsWhenItChecks, "check-does-io"),
        (How::WritesOutside, "writes-outside"),
        (How::KeepsTheThreadWaiting, "blocks-the-thread"),
        (How::LogsItsToken, "secret-in-log"),
        (How::PanicsWhenItResolves, "resolve-panics"),
        (How::HangsWhenItResolves, "resolve-timeout"),
        (How::InventsRevisions, "resolve-invents"),
    ] {
        let store = Store::new(how, Secret::new("not-a-real-token"));
        let contract = PluginSourceContract::of_instance(Arc::new(store));
        let deadline = match how {
            How::Hangs | How::HangsWhenItResolves => Duration::from_secs(2),
            _ => Duration::from_secs(30),
        };
        let contract = with_specs(contract)
            .secret("not-a-real-token")
            .deadline(deadline);
        let violations = contract.check().await.err().unwrap_or_default();
        let ids: Vec<&str> = violations.iter().map(|violation| violation.id).collect();
        assert!(ids.contains(&id), "{id}: {ids:?}");
        for violation in &violations {
            let text = violation.to_string();
            assert!(!text.contains("not-a-real-token"), "{text}");
        }
    }
}

#[tokio::test]
async fn a_spec_that_is_taken_or_refused_wrongly_is_found() {
    let contract = || {
        let store = Store::new(How::Well, Secret::new("not-a-real-token"));
        PluginSourceContract::of_instance(Arc::new(store))
    };
    assert_eq!(
        ids(contract().invalid("careful@1")).await,
        ["spec-accepted"]
    );
    assert_eq!(
        ids(contract().spec("care ful", "x")).await,
        ["spec-refused"]
    );
    let missing = PluginSourceContract::new("no-such-shelf");
    assert_eq!(ids(missing).await, ["not-linked"]);
    let unset = PluginSourceContract::new("shelf");
    assert_eq!(ids(unset).await, ["valid-section-refused"]);
}
