package issuerd

// Trusting is the transport that ca_file makes, for tests.
var Trusting = trusting
