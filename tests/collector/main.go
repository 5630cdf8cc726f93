// An OpenTelemetry Collector for the tests of what we export.
//
// It is the collector itself, built from its own modules with the few parts
// that such a test needs: it receives OTLP over gRPC and HTTP, and writes what
// it was sent to a file, one request a line, in OTLP's JSON. So a test sees
// what a real collector makes of our spans, and what it refuses.
//
//	collector --config collector.yaml
//
// A configuration that opens these two ports and no other:
//
//	receivers:
//	  otlp:
//	    protocols:
//	      grpc:
//	        endpoint: 127.0.0.1:4317
//	      http:
//	        endpoint: 127.0.0.1:4318
//	exporters:
//	  file:
//	    path: traces.jsonl
//	    flush_interval: 10ms # it is 1s where nothing is said
//	service:
//	  telemetry:
//	    metrics:
//	      level: none # else it listens on port 8888 too
//	  pipelines:
//	    traces:
//	      receivers: [otlp]
//	      exporters: [file]
//
// A line may follow the answer to its request by as much as `flush_interval`,
// and the last ones are written before a terminated collector exits. The file
// is emptied when the collector starts, unless it is told to `append`.
//
// The release is not the newest one: by 0.165 the collector's own telemetry has
// brought detectors of clouds along, and takes a third longer to build.
package main

import (
	"os"

	"github.com/open-telemetry/opentelemetry-collector-contrib/exporter/fileexporter"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/envprovider"
	"go.opentelemetry.io/collector/confmap/provider/fileprovider"
	"go.opentelemetry.io/collector/confmap/provider/yamlprovider"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/debugexporter"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/service/telemetry/otelconftelemetry"
)

func main() {
	command := otelcol.NewCommand(otelcol.CollectorSettings{
		BuildInfo: component.NewDefaultBuildInfo(),
		Factories: factories,
		ConfigProviderSettings: otelcol.ConfigProviderSettings{
			ResolverSettings: confmap.ResolverSettings{
				ProviderFactories: []confmap.ProviderFactory{
					envprovider.NewFactory(),
					fileprovider.NewFactory(),
					yamlprovider.NewFactory(),
				},
			},
		},
	})
	// The command has printed its error by itself.
	if command.Execute() != nil {
		os.Exit(1)
	}
}

// factories lists the parts that a configuration may name.
func factories() (otelcol.Factories, error) {
	receivers, err := otelcol.MakeFactoryMap[receiver.Factory](otlpreceiver.NewFactory())
	if err != nil {
		return otelcol.Factories{}, err
	}
	exporters, err := otelcol.MakeFactoryMap[exporter.Factory](
		debugexporter.NewFactory(),
		fileexporter.NewFactory(),
	)
	if err != nil {
		return otelcol.Factories{}, err
	}
	return otelcol.Factories{
		Receivers: receivers,
		Exporters: exporters,
		Telemetry: otelconftelemetry.NewFactory(),
	}, nil
}
