//! The smallest agent that speaks the workspace protocol.
