// An OpenTelemetry Collector of the fewest parts that a test needs: OTLP in, from those who send the right header if it is
// told so, a file out. The Collector's own distributions are made in the same way, from the same modules.
package main

import (
	"context"
	"fmt"
	"log"
	"slices"
	"strings"

	"github.com/open-telemetry/opentelemetry-collector-contrib/exporter/fileexporter"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/fileprovider"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/extensionauth"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/service/telemetry/otelconftelemetry"
)

func factories() (otelcol.Factories, error) {
	receivers, err := otelcol.MakeFactoryMap[receiver.Factory](otlpreceiver.NewFactory())
	if err != nil {
		return otelcol.Factories{}, err
	}
	exporters, err := otelcol.MakeFactoryMap[exporter.Factory](fileexporter.NewFactory())
	if err != nil {
		return otelcol.Factories{}, err
	}
	extensions, err := otelcol.MakeFactoryMap[extension.Factory](headerFactory())
	if err != nil {
		return otelcol.Factories{}, err
	}
	return otelcol.Factories{
		Receivers:  receivers,
		Exporters:  exporters,
		Extensions: extensions,
		Telemetry:  otelconftelemetry.NewFactory(),
	}, nil
}

// headerConfig names a header and the value that requests must have in it.
type headerConfig struct {
	Name  string `mapstructure:"name"`
	Value string `mapstructure:"value"`
}

// requiredHeader is an authenticator for a receiver: it refuses requests without the header.
type requiredHeader struct {
	component.StartFunc
	component.ShutdownFunc
	extensionauth.ServerAuthenticateFunc
}

func headerFactory() extension.Factory {
	configuration := func() component.Config { return &headerConfig{} }
	create := func(_ context.Context, _ extension.Settings, config component.Config) (extension.Extension, error) {
		wanted, ok := config.(*headerConfig)
		if !ok {
			return nil, fmt.Errorf("not a configuration of required_header: %T", config)
		}
		return requiredHeader{ServerAuthenticateFunc: wanted.check}, nil
	}
	return extension.NewFactory(component.MustNewType("required_header"), configuration, create, component.StabilityLevelDevelopment)
}

func (wanted *headerConfig) check(ctx context.Context, headers map[string][]string) (context.Context, error) {
	for name, values := range headers {
		if strings.EqualFold(name, wanted.Name) && slices.Contains(values, wanted.Value) {
			return ctx, nil
		}
	}
	return ctx, fmt.Errorf("no header %s with the right value", wanted.Name)
}

func main() {
	settings := otelcol.CollectorSettings{
		BuildInfo: component.BuildInfo{Command: "collector", Description: "OTLP in, a file out", Version: "1"},
		Factories: factories,
		ConfigProviderSettings: otelcol.ConfigProviderSettings{
			ResolverSettings: confmap.ResolverSettings{
				ProviderFactories: []confmap.ProviderFactory{fileprovider.NewFactory()},
				DefaultScheme:     "file",
			},
		},
	}
	if err := otelcol.NewCommand(settings).Execute(); err != nil {
		log.Fatal(err)
	}
}
