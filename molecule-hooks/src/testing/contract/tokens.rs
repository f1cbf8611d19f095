use std::sync::Arc;

use chrono::TimeDelta;

use crate::descriptor::{HookDescriptor, is_valid_hook_name};
use crate::env_map::EnvMap;
use crate::env_mutator::EnvMutator;
use crate::error::HookError;
use crate::token_provider::{Token, TokenProvider, TokenRequest, TokenScope};

use super::HookContract;
use super::fence::{Ended, Fence};
use super::findings::Findings;
use super::hostile::odd_workspaces;
use super::secrets::Secrets;
use super::setup::Subject;
use super::time::Time;

const AT_ONCE: usize = 20;
/// A credential that claims to live longer than this has no end, and should say when it is
/// looked at again instead.
const LONGEST_LIFE: TimeDelta = TimeDelta::days(3653);
/// The clocks of issuer and kit may be read this far apart.
const SLACK: TimeDelta = TimeDelta::seconds(1);

/// Checks the tokens of a hook, if it serves any. `env` is what an ordinary call left.
pub(super) async fn check(
    contract: &HookContract,
    hook: &Arc<dyn EnvMutator>,
    env: Option<&EnvMap>,
    fence: &Fence,
    time: &Time,
    secrets: &mut Secrets,
    findings: &mut Findings,
) {
    let Some(scope) = hook.token_provider().map(TokenProvider::scope) else {
        return;
    };
    if let Subject::Linked(name) = &contract.setup.subject {
        let declared = HookDescriptor::linked()
            .iter()
            .any(|descriptor| descriptor.name == name && descriptor.token_provider);
        findings.require("token-provider-undeclared", declared, || {
            "it serves tokens; add `token_provider: true` to register_hook!".to_owned()
        });
    }
    let mut tokens = Tokens {
        contract,
        hook,
        fence,
        time,
        secrets,
        findings,
    };
    tokens.check_service();
    let workspace = TokenRequest::for_workspace(contract.workspace.clone());
    let Some(first) = tokens.request(workspace.clone(), false).await else {
        return;
    };
    if fence.is_blocked() {
        return;
    }
    if let Some(env) = env {
        tokens.check_variables(env, &first);
    }
    // A token for one workspace has no obvious answer for the admin route.
    let may_refuse = scope != TokenScope::Shared;
    tokens.request(TokenRequest::admin(), may_refuse).await;
    tokens.check_concurrent(&workspace).await;
    tokens.check_cancelled(&workspace).await;
    for workspace in odd_workspaces() {
        let request = TokenRequest::for_workspace(workspace);
        let ended = fence.run(ask(hook, request)).await;
        if tokens.answer(ended).is_none() {
            break;
        }
    }
    // Last: nothing here can turn the time of an upstream back or forward.
    if matches!(contract.setup.subject, Subject::Linked(_)) {
        tokens.check_outlived(&first, workspace).await;
    }
}

struct Tokens<'a> {
    contract: &'a HookContract,
    hook: &'a Arc<dyn EnvMutator>,
    fence: &'a Fence,
    time: &'a Time,
    secrets: &'a mut Secrets,
    findings: &'a mut Findings,
}

impl Tokens<'_> {
    fn check_service(&mut self) {
        let service = || {
            let provider = self.hook.token_provider()?;
            Some(provider.service().to_owned())
        };
        let (first, second) = (service(), service());
        let good = first.as_deref().is_some_and(is_valid_hook_name) && first == second;
        self.findings.require("token-service-invalid", good, || {
            format!(
                "service() answers {:?}, then {:?}; it must be one lower-case word, always the same",
                first.unwrap_or_default(),
                second.unwrap_or_default()
            )
        });
    }

    /// Asks once and notes what is wrong with the answer; returns a good token.
    async fn request(&mut self, request: TokenRequest, may_refuse: bool) -> Option<Token> {
        let ended = self.fence.run(ask(self.hook, request)).await;
        let token = match self.answer(ended)? {
            Ok(token) => token,
            Err(error) => {
                self.findings.require("token-failed", may_refuse, || {
                    format!("asking for a token failed: {}", self.secrets.show(&error))
                });
                return None;
            }
        };
        self.findings.note("token-failed", Ok(()));
        self.secrets.add(token.secret.expose());
        let findings = &mut *self.findings;
        findings.require("token-empty", !token.secret.is_empty(), || {
            "the token is the empty string".to_owned()
        });
        let (now, end) = (self.time.now(), token.expires_at);
        findings.require("token-expired", end > now, || {
            format!("the token expired at {end}, it is {now}")
        });
        findings.require("token-endless", end - now <= LONGEST_LIFE, || {
            format!(
                "the token claims to live until {end}; for a credential without an end, say when \
                 it is to be asked for again"
            )
        });
        if let Some(lifetime) = self.contract.token_lifetime {
            let longest = TimeDelta::from_std(lifetime).unwrap_or(LONGEST_LIFE);
            findings.require("token-overstated", end - now <= longest + SLACK, || {
                format!("the token claims to live until {end}, that is longer than {lifetime:?}")
            });
        }
        is_good(self.time, &token).then_some(token)
    }

    /// Notes panics, deadlines and leaks of an answer.
    fn answer(
        &mut self,
        ended: Ended<Result<Token, HookError>>,
    ) -> Option<Result<Token, HookError>> {
        let findings = &mut *self.findings;
        findings.require("token-panics", !matches!(ended, Ended::Panicked), || {
            "asking for a token panicked".to_owned()
        });
        findings.require("token-timeout", !matches!(ended, Ended::Late), || {
            format!("no token within {:?}", self.fence.deadline())
        });
        let Ended::Returned(answer) = ended else {
            return None;
        };
        match &answer {
            Ok(token) => self.secrets.add(token.secret.expose()),
            Err(error) => self.secrets.check_error(error, findings),
        }
        Some(answer)
    }

    /// Checks the variables that hold the token.
    fn check_variables(&mut self, env: &EnvMap, token: &Token) {
        let findings = &mut *self.findings;
        findings.note("token-undated", Ok(()));
        let holders = env
            .iter()
            .filter(|(_, value)| *value == token.secret.expose());
        for (name, _) in holders {
            let end = env.expires_at(name);
            let good = end.is_some_and(|end| end <= token.expires_at);
            findings.require("token-undated", good, || {
                format!(
                    "{name} holds the token and ends {end:?}, the token ends {}; write it with \
                     EnvMap::set_token",
                    token.expires_at
                )
            });
            findings.require("secret-visible", env.is_secret(name), || {
                format!("{name} holds the token; write it with EnvMap::set_token")
            });
        }
    }

    async fn check_concurrent(&mut self, request: &TokenRequest) {
        let calls = (0..AT_ONCE).map(|_| ask(self.hook, request.clone()));
        let ended = self.fence.run_all(calls).await;
        let good = |ended: &&Ended<Result<Token, HookError>>| matches!(ended, Ended::Returned(Ok(token)) if is_good(self.time, token));
        let good = ended.iter().filter(good).count();
        self.findings
            .require("token-not-concurrent", good == AT_ONCE, || {
                format!("only {good} of {AT_ONCE} requests at once got a valid token")
            });
    }

    /// Drops requests at several points, then expects an ordinary one to work.
    async fn check_cancelled(&mut self, request: &TokenRequest) {
        for polls in [1, 2, 5] {
            let call = ask(self.hook, request.clone());
            let dropped = self.fence.run_and_drop(call, polls).await;
            let after = self.fence.run(ask(self.hook, request.clone())).await;
            let outcome = match (&dropped, &after) {
                (Ended::Panicked, _) => Err("it panics when it is dropped"),
                (_, Ended::Returned(Ok(token))) if is_good(self.time, token) => Ok(()),
                (_, Ended::Returned(_)) => Err("the next one gets no valid token"),
                (_, Ended::Panicked) => Err("the next one panics"),
                (_, Ended::Late) => Err("the next one does not return in time"),
            };
            self.findings.note(
                "token-not-cancel-safe",
                outcome.map_err(|what| format!("after a request was dropped half-way, {what}")),
            );
            if outcome.is_err() {
                return;
            }
        }
    }

    /// Lets the token end. An error is a fair answer then: the upstream's own clock did
    /// not move.
    async fn check_outlived(&mut self, first: &Token, request: TokenRequest) {
        self.time.pass(first.expires_at);
        let ended = self.fence.run(ask(self.hook, request)).await;
        let now = self.time.now();
        let expired = match self.answer(ended) {
            Some(Ok(token)) => Some(token.expires_at).filter(|end| *end <= now),
            _ => None,
        };
        self.findings
            .require("token-outlived", expired.is_none(), || {
                let end = expired.unwrap_or_default();
                format!("at {now} by the clock of the context it serves a token that ended {end}")
            });
    }
}

fn ask(
    hook: &Arc<dyn EnvMutator>,
    request: TokenRequest,
) -> impl Future<Output = Result<Token, HookError>> + Send + use<> {
    let hook = Arc::clone(hook);
    async move {
        match hook.token_provider() {
            Some(provider) => provider.token(&request).await,
            None => Err(HookError::permanent("token_provider() now answers None")),
        }
    }
}

fn is_good(time: &Time, token: &Token) -> bool {
    !token.secret.is_empty() && token.expires_at > time.now()
}
