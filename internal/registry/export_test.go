package registry

// RefuseContent lets the fuzz target and the sampling test reach the scanner without a store around it.
var RefuseContent = refuseContent
