//! The HTTP shell: CORS, rate limits, headers, the tenant guard, proxies, metrics.
