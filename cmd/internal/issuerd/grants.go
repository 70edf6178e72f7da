package issuerd

import (
	"encoding/json"
	"net/netip"
	"strconv"
	"time"

	"github.com/hourpass/hourpass/internal/config"
	"github.com/hourpass/hourpass/internal/policy"
	"github.com/hourpass/hourpass/internal/token"
)

// grantSettings are as policy.Grant says. What a grant with a parent leaves out
// is its parent's; what it says is within its parent's.
type grantSettings struct {
	Name            string            `yaml:"name"`
	Parent          string            `yaml:"parent"` // A grant that stands before this one.
	Tier            string            `yaml:"tier"`
	Scopes          []string          `yaml:"scopes"`
	Default         []string          `yaml:"default"` // Absent: all of Scopes.
	MaxLifetime     time.Duration     `yaml:"max_lifetime"`
	IPRanges        *[]string         `yaml:"ip_ranges"` // Absent: anywhere. []: nowhere.
	Limits          map[string]int64  `yaml:"limits"`
	Params          map[string]any    `yaml:"params"`
	Members         []membersSettings `yaml:"members"`
	WithoutIdentity bool              `yaml:"without_identity"`
}

type membersSettings struct {
	Provider string                    `yaml:"provider"`
	Groups   []string                  `yaml:"groups"`
	Subjects []string                  `yaml:"subjects"`
	Claims   map[string]policy.Pattern `yaml:"claims"`
}

// grant makes the grant and notes what is wrong with it. before are the grants
// that stand before it.
func (s grantSettings) grant(p *config.Problems, path string, c *settings, before map[string]policy.Grant) policy.Grant {
	parent, has := before[s.Parent]
	p.Check(s.Parent == "" || has, path+".parent", "want a grant that stands before this one")
	g := policy.Grant{Name: s.Name, Tier: s.Tier, MaxLifetime: s.MaxLifetime, WithoutIdentity: s.WithoutIdentity}
	p.Check(s.Name != "" && len(s.Name) <= 64, path+".name", "want 1 to 64 characters")
	var err error
	g.Scopes, err = token.NewScopes(s.Scopes...)
	if has && s.Scopes == nil {
		g.Scopes, g.Default = parent.Scopes, parent.Default
	}
	p.Check(err == nil && len(g.Scopes) > 0, path+".scopes", "want scopes such as chat:faq-bot, each once")
	if g.Default == nil {
		g.Default = g.Scopes
	}
	if s.Default != nil {
		g.Default, err = token.NewScopes(s.Default...)
		p.Check(err == nil, path+".default", "want scopes such as chat:faq-bot, each once")
	}
	p.Check(g.Default.Within(g.Scopes), path+".default", "want scopes that scopes covers")
	g.IPRanges = s.networks(p, path)
	g.Limits = s.Limits
	if err := g.Limits.Check(); err != nil {
		p.Add(path+".limits", "%v", err)
	}
	g.Params = s.params(p, path)
	g.Members = members(s.Members, p, path+".members", c)
	if has {
		g = inherit(g, parent, s)
	}
	if g.MaxLifetime == 0 {
		g.MaxLifetime = token.MaxLifetime
	}
	p.Check(g.MaxLifetime > 0 && g.MaxLifetime <= token.MaxLifetime, path+".max_lifetime", "want up to %s", token.MaxLifetime)
	p.Check(len(g.Members) > 0 || g.WithoutIdentity, path+".members", "nobody may hold this grant")
	if has {
		if err := g.Within(parent); err != nil {
			p.Add(path, "%v", err)
		}
	}
	return g
}

// inherit gives g what it leaves out. Its limits hold beside its parent's.
func inherit(g, parent policy.Grant, s grantSettings) policy.Grant {
	if g.MaxLifetime == 0 {
		g.MaxLifetime = parent.MaxLifetime
	}
	if s.IPRanges == nil {
		g.IPRanges = parent.IPRanges
	}
	if s.Members == nil {
		g.Members = parent.Members
	}
	if g.Tier == "" {
		g.Tier = parent.Tier
	}
	if s.Limits == nil {
		g.Limits = parent.Limits
	}
	if s.Params == nil {
		g.Params = parent.Params
	}
	return g
}

func (s grantSettings) networks(p *config.Problems, path string) []netip.Prefix {
	if s.IPRanges == nil {
		return nil
	}
	list := []netip.Prefix{}
	for i, text := range *s.IPRanges {
		network, err := token.ParseNetwork(text)
		if err != nil {
			p.Add(path+".ip_ranges["+strconv.Itoa(i)+"]", "%v", err)
		}
		list = append(list, network)
	}
	return list
}

// params reads them as the claim par has them.
func (s grantSettings) params(p *config.Problems, path string) (params token.Params) {
	if len(s.Params) == 0 {
		return token.Params{}
	}
	text, err := json.Marshal(s.Params)
	if err == nil {
		err = json.Unmarshal(text, &params)
	}
	if err != nil {
		p.Add(path+".params", "want bounds such as max_tokens: 4096, temperature: [0, 1] and clamp: true")
	}
	return params
}

// members are the identities of a rule; what is wrong with them is noted.
func members(rules []membersSettings, p *config.Problems, path string, c *settings) []policy.Members {
	var list []policy.Members
	for i, m := range rules {
		m.check(p, path+"["+strconv.Itoa(i)+"]", c)
		list = append(list, policy.Members(m))
	}
	return list
}
