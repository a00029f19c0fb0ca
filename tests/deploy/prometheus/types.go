// Package prometheus names the module whose types the test needs, so that go.mod pins it.
package prometheus

import _ "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
