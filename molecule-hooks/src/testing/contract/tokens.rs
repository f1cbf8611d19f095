use std::sync::Arc;

use crate::descriptor::HookDescriptor;
use crate::env_mutator::EnvMutator;
use crate::error::HookError;
use crate::token_provider::{Token, TokenRequest, TokenScope};

use super::fence::{Ended, Fence};
use super::findings::Findings;
use super::secrets::Secrets;
use super::{HookContract, Subject};

const AT_ONCE: usize = 20;

pub(super) async fn check(
    contract: &HookContract,
    hook: &Arc<dyn EnvMutator>,
    fence: &Fence,
    secrets: &mut Secrets,
    findings: &mut Findings,
) {
    let Some(scope) = hook.token_provider().map(|provider| provider.scope()) else {
        return;
    };
    if let Subject::Linked(name) = &contract.subject {
        let declared = HookDescriptor::linked()
            .iter()
            .any(|descriptor| descriptor.name == name && descriptor.token_provider);
        findings.require("token-provider-undeclared", declared, || {
            "it serves tokens; add `token_provider: true` to register_hook!".to_owned()
        });
    }
    let workspace = TokenRequest::for_workspace(contract.workspace.clone());
    let ended = fence.run(ask(hook, workspace.clone())).await;
    if !judge(contract, ended, false, secrets, findings) {
        return;
    }
    // A token for one workspace has no obvious answer for the admin route.
    let may_refuse = scope != TokenScope::Shared;
    let ended = fence.run(ask(hook, TokenRequest::admin())).await;
    judge(contract, ended, may_refuse, secrets, findings);

    let calls = (0..AT_ONCE).map(|_| ask(hook, workspace.clone()));
    let ended = fence.run_all(calls).await;
    let good = ended
        .iter()
        .filter(|ended| matches!(ended, Ended::Returned(Ok(token)) if is_good(contract, token)))
        .count();
    findings.require("token-not-concurrent", good == AT_ONCE, || {
        format!("only {good} of {AT_ONCE} requests at once got a valid token")
    });
}

fn ask(
    hook: &Arc<dyn EnvMutator>,
    request: TokenRequest,
) -> impl Future<Output = Result<Token, HookError>> + Send + 'static {
    let hook = Arc::clone(hook);
    async move {
        match hook.token_provider() {
            Some(provider) => provider.token(&request).await,
            None => Err(HookError::permanent("token_provider() now answers None")),
        }
    }
}

/// Notes what is wrong with an answer; true when it is a good token.
fn judge(
    contract: &HookContract,
    ended: Ended<Result<Token, HookError>>,
    may_refuse: bool,
    secrets: &mut Secrets,
    findings: &mut Findings,
) -> bool {
    findings.require("token-panics", !matches!(ended, Ended::Panicked), || {
        "asking for a token panicked".to_owned()
    });
    findings.require("token-timeout", !matches!(ended, Ended::Late), || {
        format!("no token within {:?}", contract.deadline)
    });
    let Ended::Returned(answer) = ended else {
        return false;
    };
    let token = match answer {
        Ok(token) => token,
        Err(error) => {
            secrets.check_error(&error, findings);
            findings.require("token-failed", may_refuse, || {
                format!("asking for a token failed: {}", secrets.show(&error))
            });
            return false;
        }
    };
    findings.note("token-failed", Ok(()));
    secrets.add(token.secret.expose());
    findings.require("token-empty", !token.secret.is_empty(), || {
        "the token is the empty string".to_owned()
    });
    let now = contract.context.clock.now();
    findings.require("token-expired", token.expires_at > now, || {
        format!("the token expired at {}, it is {now}", token.expires_at)
    });
    is_good(contract, &token)
}

fn is_good(contract: &HookContract, token: &Token) -> bool {
    !token.secret.is_empty() && token.expires_at > contract.context.clock.now()
}
