// An OpenTelemetry Collector for the tests of the span export.
//
// It is the real collector, built from its own modules with the few components
// that such a test needs: it receives OTLP over gRPC and HTTP, and writes each
// request as one line of OTLP's JSON encoding to a file. So a test sees how a
// real collector decodes our spans, and whether it rejects them.
//
//	collector --config collector.yaml
//
// A configuration that listens on these two ports only:
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
//	    flush_interval: 10ms # the default is 1s
//	service:
//	  telemetry:
//	    metrics:
//	      level: none # otherwise it also listens on port 8888
//	  pipelines:
//	    traces:
//	      receivers: [otlp]
//	      exporters: [file]
//
// A line is written at most `flush_interval` after the response to its request;
// the last lines are written before a terminated collector exits. The file is
// truncated when the collector starts, unless `append` is set.
//
// The release is not the newest one: with 0.165 the collector's own telemetry
// includes detectors of cloud providers, and takes a third longer to build.
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
	// The command has already printed its error.
	if command.Execute() != nil {
		os.Exit(1)
	}
}

// factories returns the components that a configuration may use.
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
