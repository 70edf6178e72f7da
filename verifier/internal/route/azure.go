package route

import (
	"slices"
	"strings"
)

// azure is OpenAI's API as Azure serves it: below /openai/v1, and with the
// deployment in the path.
var azure = Family{
	Name: "azure", Title: "Azure OpenAI", Cap: openAI.Cap, Credential: "Api-Key",
	About: "A model's name is that of the deployment. Azure's servers go by the deployment in the path and ignore a `model` in the body: " +
		"where both stand there, they must be the same. `api-version` is the only parameter. " +
		"There are no routes that rule. Closed stay the list of models, which is of what could be deployed, the older path of realtime, " +
		"`data_sources`, which name other places, assistants, files, batches and whatever is read or changed by an id.",
	Routes:  azureRoutes(),
	Refusal: openAIRefusal,
	Event:   dataEvent,
}

func azureRoutes() []Route {
	var below, deployed []Route
	for _, r := range openAI.Routes {
		path, ok := strings.CutPrefix(r.Path, "/v1/")
		if !ok || r.Carrier == InFrame || r.Action == "models" || r.Action == "moderations" || r.Action == "rerank" {
			continue
		}
		query := map[string]func(string) bool{"api-version": isAPIVersion}
		for name, is := range r.Query {
			query[name] = is
		}
		r.Query = query
		r.Path = "/openai/v1/" + path
		below = append(below, r)
		if slices.Contains([]string{"responses", "realtime"}, r.Action) {
			continue
		}
		r.Path = "/openai/deployments/{model}/" + path
		r.Form = r.Carrier == InForm
		r.Carrier, r.Agree = InPath, []string{"model"}
		deployed = append(deployed, r)
	}
	return append(deployed, below...)
}

// isAPIVersion tells whether s is a day, perhaps of a preview, or one of the
// words that newer servers know.
func isAPIVersion(s string) bool {
	day := strings.TrimSuffix(s, "-preview")
	if len(day) != len("2006-01-02") || day[4] != '-' || day[7] != '-' {
		return s == "v1" || s == "preview" || s == "latest"
	}
	return strings.Trim(day, "0123456789-") == ""
}
