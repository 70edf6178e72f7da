package route

import "github.com/hourpass/hourpass/internal/strictjson"

// subtitles are what speech becomes beside JSON.
var subtitles = []string{"text/plain", "text/vtt", "application/x-subrip"}

var transcriptions = newMembers([]named{
	{"model", model},
	{"stream", flag.as(streaming)},
	{"temperature", float.as(temperature)},
}, otherModels)

var speech = newMembers([]named{
	{"model", model},
	{"stream", flag.as(streaming)},
	{"stream_format", Rule{
		Is: isOneOf("audio", "sse"), Words: `must be "audio" or "sse"`,
		Param: &Param{Name: "stream", Measure: isEvents},
	}},
}, otherModels)

func isEvents(v strictjson.Value) float64 {
	if s, _ := v.Text(); s == "sse" {
		return 1
	}
	return 0
}

// pictures makes of n what the claim calls images: each is paid for.
var pictures = newMembers([]named{
	{"model", model},
	{"stream", flag.as(streaming)},
	{"n", count.as(images)},
	{"size", size.as(imagePixels)},
}, otherModels)

// frames are what a client says on a realtime connection. A session may be told
// to transcribe what it hears with a model of its own.
var frames = newMembers([]named{
	{"type", text},
	{"session", group.of(session)},
	{"response", group.of(session)},
}, otherModels)

var session = newMembers([]named{
	{"model", text},
	{"tools", toolList},
	{"audio", group.of(newMembers([]named{{"input", group.of(newMembers(transcribing))}}))},
}, otherModels, transcribing, refused(
	"is refused: a stored prompt may name another model", "prompt",
))

var transcribing = refused("is refused: a call names one model, and this would be another", "transcription input_audio_transcription")
