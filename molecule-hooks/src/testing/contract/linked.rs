use crate::config::{BuildContext, ConfigField, RawConfig};
use crate::error::HookError;

/// Something that was registered at link time and is built from a section. The
/// descriptors implement it.
pub(crate) trait Linked: Copy + Send + Sync {
    /// What is built.
    type Built;
    /// What it is called in messages.
    const KIND: &'static str;

    fn name(self) -> &'static str;
    fn version(self) -> &'static str;
    fn description(self) -> &'static str;
    fn fields(self) -> &'static [ConfigField];
    fn decoded_keys(self) -> Option<&'static [&'static str]>;
    fn check(self, raw: &RawConfig) -> Result<(), HookError>;
    fn build(
        self,
        raw: &RawConfig,
        context: &BuildContext,
    ) -> Result<Option<Self::Built>, HookError>;
}
