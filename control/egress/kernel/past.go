package kernel

import "time"

// past is a deadline that is over.
var past = time.Unix(1, 0)
