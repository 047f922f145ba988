package schema

import _ "embed"

// OpenVSwitch is the text of the schema of the Open_vSwitch database.
//
//go:embed vswitch.ovsschema
var OpenVSwitch string

// Millrace is the text of the schema of the Millrace database: flow rules,
// address sets, port groups, meters and groups of bridges that run them.
//
//go:embed millrace.ovsschema
var Millrace string

// Server is the text of the schema of the _Server database, in which a server
// tells about itself.
//
//go:embed server.ovsschema
var Server string
