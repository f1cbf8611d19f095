//! What everything that registers at link time has in common.

/// Writes what a descriptor of something linked can do: the methods that its registration
/// and the server call, its collection, and what the contract kit asks it.
macro_rules! linkable {
    ($descriptor:ident builds $built:ty as $result:ty, $kind:literal) => {
        impl $descriptor {
            /// Used by the macro that registers it.
            #[doc(hidden)]
            pub const fn in_package(mut self, package: &'static str) -> Self {
                self.package = package;
                self
            }

            /// Used by the macro that registers it.
            #[doc(hidden)]
            pub const fn with_contract(mut self, verdict: &'static str) -> Self {
                self.contract = Some(verdict);
                self
            }

            /// The verdict of the contract kit that the crate embeds. `None` without one, and
            /// for a text that is none.
            pub fn verdict(&self) -> Option<$crate::verdict::Verdict> {
                self.contract.and_then($crate::verdict::Verdict::parse)
            }

            /// Decodes and validates a section without building; no I/O.
            ///
            /// # Errors
            /// A config error naming every problem.
            pub fn check(
                &self,
                raw: &$crate::config::RawConfig,
            ) -> Result<(), $crate::error::HookError> {
                (self.check)(raw)
            }

            /// Builds what is registered from its section.
            ///
            /// # Errors
            /// Whatever the build function returns; config errors for a section that does
            /// not decode.
            pub fn build(
                &self,
                raw: &$crate::config::RawConfig,
                context: &$crate::config::BuildContext,
            ) -> $result {
                (self.build)(raw, context)
            }

            /// Everything of this kind that is linked into this binary, ordered by name.
            /// Link order means nothing.
            pub fn linked() -> Vec<&'static Self> {
                let mut all: Vec<_> = inventory::iter::<$descriptor>.into_iter().collect();
                // The crate and its version, too: two of one name keep their order.
                all.sort_by_key(|found| (found.name, found.package, found.version));
                all
            }
        }

        inventory::collect!($descriptor);

        #[cfg(feature = "testing")]
        impl $crate::testing::Linked for &'static $descriptor {
            type Built = std::sync::Arc<$built>;
            const KIND: &'static str = $kind;

            fn name(self) -> &'static str {
                self.name
            }
            fn version(self) -> &'static str {
                self.version
            }
            fn description(self) -> &'static str {
                self.description
            }
            fn fields(self) -> &'static [$crate::config::ConfigField] {
                self.fields
            }
            fn decoded_keys(self) -> Option<&'static [&'static str]> {
                (self.decoded)()
            }
            fn check(
                self,
                raw: &$crate::config::RawConfig,
            ) -> Result<(), $crate::error::HookError> {
                (self.check)(raw)
            }
            fn build(
                self,
                raw: &$crate::config::RawConfig,
                context: &$crate::config::BuildContext,
            ) -> $result {
                (self.build)(raw, context)
            }
        }
    };
}

pub(crate) use linkable;
