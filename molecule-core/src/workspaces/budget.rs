//! What a workspace may spend, in USD cents.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::Workspaces;
use super::store::operator::{self, Budget};
use crate::error::{Error, Result};
use crate::events::EventType;
use crate::store::{Topic, timestamp};

/// The budget that a body of `PATCH …/budget` sets: `null` for none.
///
/// # Errors
/// 400 with the documented texts.
fn limit_of(body: &Map<String, Value>) -> Result<Option<i64>> {
    let value = body
        .get("budget_limit")
        .ok_or_else(|| Error::invalid("budget_limit field is required"))?;
    let wrong_type = || Error::invalid("budget_limit must be an integer (USD cents) or null");
    let cents = match value {
        Value::Null => return Ok(None),
        Value::Number(number) => number,
        _ => return Err(wrong_type()),
    };
    if cents.as_f64().is_some_and(|cents| cents < 0.0) {
        return Err(Error::invalid("budget_limit must be >= 0 (USD cents)"));
    }
    let whole = match cents.as_i64() {
        Some(whole) => whole,
        // Fractions of a cent are dropped, as on the reference platform.
        None => cents
            .as_f64()
            .filter(|cents| *cents < MOST_CENTS)
            .map(|cents| cents.trunc() as i64)
            .ok_or_else(wrong_type)?,
    };
    Ok(Some(whole))
}

/// Floating-point numbers above this are no exact cents.
const MOST_CENTS: f64 = 9_007_199_254_740_992.0;

/// The documented reply.
fn view(budget: Budget) -> Value {
    let remaining = budget
        .budget_limit
        .map(|limit| limit.saturating_sub(budget.monthly_spend));
    json!({
        "budget_limit": budget.budget_limit,
        "monthly_spend": budget.monthly_spend,
        "budget_remaining": remaining,
    })
}

impl Workspaces {
    /// Limit, spend and what remains; the last is negative when overspent.
    ///
    /// # Errors
    /// 404 `workspace not found`; 500 `query failed`.
    pub(crate) async fn budget(&self, id: Uuid) -> Result<Value> {
        operator::budget(&self.services.db, id)
            .await?
            .map(view)
            .ok_or_else(|| Error::not_found("workspace not found"))
    }

    /// Sets or clears the limit.
    ///
    /// # Errors
    /// The documented 400s; 404 `workspace not found`; 500 `update failed`.
    pub(crate) async fn set_budget(&self, id: Uuid, body: &Map<String, Value>) -> Result<Value> {
        let limit = limit_of(body)?;
        let services = &self.services;
        let failed = |error: sqlx::Error| Error::from(error).says("update failed");
        let mut tx = services.db.begin().await.map_err(failed)?;
        let mut budget = operator::lock_budget(&mut tx, id)
            .await
            .map_err(failed)?
            .ok_or_else(|| Error::not_found("workspace not found"))?;
        if budget.budget_limit == limit {
            return Ok(view(budget));
        }
        budget.budget_limit = limit;
        let now = timestamp(&services.clock);
        let written = operator::set_budget(&mut tx, id, limit, now).await;
        written.map_err(failed)?;
        let payload = json!({ "changed": ["budget_limit"] });
        let event = services
            .events
            .record(&mut tx, EventType::WorkspaceUpdated, id, payload)
            .await
            .map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        services.relay.send(Topic::WorkspaceChanged, id.to_string());
        services.events.publish(event);
        Ok(view(budget))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limit(body: Value) -> Result<Option<i64>> {
        limit_of(body.as_object().unwrap())
    }

    #[test]
    fn whole_cents_null_and_nothing_else() {
        let good = [
            (json!(null), None),
            (json!(0), Some(0)),
            (json!(500), Some(500)),
            (json!(12.99), Some(12)),
            (json!(0.5), Some(0)),
            (json!(i64::MAX), Some(i64::MAX)),
        ];
        for (value, expected) in good {
            let set = limit(json!({ "budget_limit": value })).unwrap();
            assert_eq!(set, expected, "{value}");
        }
        let negative = "budget_limit must be >= 0 (USD cents)";
        let wrong = "budget_limit must be an integer (USD cents) or null";
        let bad = [
            (json!(-1), negative),
            (json!(-0.5), negative),
            (json!(-1e300), negative),
            (json!(1e300), wrong),
            (json!(u64::MAX), wrong),
            (json!("5"), wrong),
            (json!(true), wrong),
            (json!([5]), wrong),
            (json!({}), wrong),
        ];
        for (value, text) in bad {
            let error = limit(json!({ "budget_limit": value })).unwrap_err();
            assert_eq!(error.message(), text, "{value}");
        }
        let error = limit(json!({ "budget": 5 })).unwrap_err();
        assert_eq!(error.message(), "budget_limit field is required");
    }

    proptest! {
        #[test]
        fn no_number_makes_a_negative_budget(cents in any::<f64>()) {
            if let Ok(Some(cents)) = limit(json!({ "budget_limit": cents })) {
                prop_assert!(cents >= 0);
            }
        }
    }
}
