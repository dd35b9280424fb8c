package bus

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"path"
	"strings"
	"time"
)

// ocsfVersion is the version of the Open Cybersecurity Schema Framework that EncodeOCSF follows.
// Later ones of major version 1 only add.
const ocsfVersion = "1.4.0"

// ocsfFinding is an OCSF Detection Finding (class 2004). Where its attributes come from:
//
//	activity_id       1 Create for revision 1, 3 Close when retracted, else 2 Update
//	severity_id       4 High for an alert, 3 Medium for a watch, 2 Low for a lead, 1 Informational when retracted
//	confidence_id     3, 2, 1 likewise, 0 when retracted: it grows with the e-value
//	status_id         1 New, 4 Resolved when retracted
//	is_alert          event.kind is "alert"
//	time              @timestamp; start_time is that of the lookup
//	metadata          uid is event.id, correlation_uid is portolan.hit_id: the same for all revisions
//	finding_info      uid is portolan.hit_id, analytic is rule.*, attacks is threat.*
//	evidences[0]      connection, client, destination, the name that was looked up, and what connected where that is known
//	observables       addresses, port and name, each with the place it stands at
//	unmapped.portolan portolan.*, whole
type ocsfFinding struct {
	ActivityID   int              `json:"activity_id"`
	ActivityName string           `json:"activity_name"`
	CategoryUID  int              `json:"category_uid"`
	CategoryName string           `json:"category_name"`
	ClassUID     int              `json:"class_uid"`
	ClassName    string           `json:"class_name"`
	TypeUID      int              `json:"type_uid"`
	TypeName     string           `json:"type_name"`
	Time         int64            `json:"time"` // all times in ms since 1970
	StartTime    int64            `json:"start_time"`
	EndTime      int64            `json:"end_time"`
	SeverityID   int              `json:"severity_id"`
	Severity     string           `json:"severity"`
	StatusID     int              `json:"status_id"`
	Status       string           `json:"status"`
	ConfidenceID int              `json:"confidence_id"`
	Confidence   string           `json:"confidence"`
	IsAlert      bool             `json:"is_alert"`
	Message      string           `json:"message"`
	Metadata     ocsfMetadata     `json:"metadata"`
	FindingInfo  ocsfFindingInfo  `json:"finding_info"`
	Evidences    []ocsfEvidence   `json:"evidences"`
	Observables  []ocsfObservable `json:"observables"`
	Unmapped     ocsfUnmapped     `json:"unmapped"`
}

type ocsfUnmapped struct {
	Portolan *Portolan `json:"portolan"`
}

type ocsfMetadata struct {
	Version        string      `json:"version"`
	Product        ocsfProduct `json:"product"`
	UID            string      `json:"uid"`
	CorrelationUID string      `json:"correlation_uid"`
	LogName        string      `json:"log_name"`
	LogProvider    string      `json:"log_provider"`
	OriginalTime   string      `json:"original_time"`
	LoggedTime     int64       `json:"logged_time,omitempty"`
	Sequence       uint64      `json:"sequence,omitempty"`
}

type ocsfProduct struct {
	Name       string `json:"name"`
	VendorName string `json:"vendor_name"`
	Version    string `json:"version,omitempty"`
}

type ocsfFindingInfo struct {
	UID           string       `json:"uid"`
	Title         string       `json:"title"`
	Desc          string       `json:"desc"`
	Types         []string     `json:"types"`
	SrcURL        string       `json:"src_url"`
	Analytic      ocsfAnalytic `json:"analytic"`
	Attacks       []ocsfAttack `json:"attacks"`
	CreatedTime   int64        `json:"created_time"`
	ModifiedTime  int64        `json:"modified_time,omitempty"`
	FirstSeenTime int64        `json:"first_seen_time"`
	LastSeenTime  int64        `json:"last_seen_time"`
}

type ocsfAnalytic struct {
	TypeID   int    `json:"type_id"`
	Type     string `json:"type"`
	UID      string `json:"uid"`
	Name     string `json:"name"`
	Category string `json:"category"`
	Desc     string `json:"desc"`
	Version  string `json:"version,omitempty"`
}

type ocsfAttack struct {
	Version      string  `json:"version"`
	Tactic       ocsfRef `json:"tactic"`
	Technique    ocsfRef `json:"technique"`
	SubTechnique ocsfRef `json:"sub_technique"`
}

type ocsfRef struct {
	UID    string `json:"uid"`
	Name   string `json:"name"`
	SrcURL string `json:"src_url"`
}

type ocsfEvidence struct {
	ConnectionInfo ocsfConnection `json:"connection_info"`
	SrcEndpoint    ocsfEndpoint   `json:"src_endpoint"`
	DstEndpoint    ocsfEndpoint   `json:"dst_endpoint"`
	Query          *ocsfQuery     `json:"query,omitempty"`
	Process        *ocsfProcess   `json:"process,omitempty"`
	Actor          *ocsfActor     `json:"actor,omitempty"`
	Container      *ocsfContainer `json:"container,omitempty"`
	Device         *ocsfDevice    `json:"device,omitempty"`
}

// ocsfProcess is the process that connected, or its parent.
type ocsfProcess struct {
	PID         uint32       `json:"pid,omitempty"`
	Name        string       `json:"name,omitempty"`
	Path        string       `json:"path,omitempty"`
	CommandLine string       `json:"cmd_line,omitempty"`
	CreatedTime int64        `json:"created_time,omitempty"`
	File        *ocsfFile    `json:"file,omitempty"`
	Parent      *ocsfProcess `json:"parent_process,omitempty"`
}

type ocsfFile struct {
	Name   string     `json:"name"`
	Path   string     `json:"path,omitempty"`
	TypeID int        `json:"type_id"` // 1: a regular file
	Hashes []ocsfHash `json:"hashes,omitempty"`
}

type ocsfHash struct {
	AlgorithmID int    `json:"algorithm_id"` // 3: SHA-256
	Algorithm   string `json:"algorithm"`
	Value       string `json:"value"`
}

type ocsfActor struct {
	User ocsfUser `json:"user"`
}

type ocsfUser struct {
	UID  string `json:"uid,omitempty"`
	Name string `json:"name,omitempty"`
}

type ocsfContainer struct {
	UID  string `json:"uid,omitempty"`
	Name string `json:"name,omitempty"`
}

type ocsfDevice struct {
	UID      string `json:"uid"`
	Hostname string `json:"hostname,omitempty"`
	TypeID   int    `json:"type_id"` // 0: what kind of host it is nobody said
}

type ocsfConnection struct {
	DirectionID   int    `json:"direction_id"` // 0: a mirror does not tell inside from outside
	Direction     string `json:"direction"`
	ProtocolNum   int    `json:"protocol_num"`
	ProtocolName  string `json:"protocol_name"`
	ProtocolVerID int    `json:"protocol_ver_id"`
	CommunityUID  string `json:"community_uid"`
}

type ocsfEndpoint struct {
	IP      netip.Addr `json:"ip"`
	Port    uint16     `json:"port"`
	MAC     string     `json:"mac,omitempty"`
	VLANUID string     `json:"vlan_uid,omitempty"`
}

type ocsfQuery struct {
	Hostname string `json:"hostname"`
	Type     string `json:"type,omitempty"`
}

type ocsfObservable struct {
	Name   string `json:"name"`
	TypeID int    `json:"type_id"`
	Type   string `json:"type"`
	Value  string `json:"value"`
}

// attackVersion is the version of ATT&CK in which DNS Calculation has its analytic.
const attackVersion = "18"

// EncodeOCSF returns the hit as an OCSF Detection Finding, one line of JSON without a newline. The
// message is whole: what OCSF has no attribute for stands under unmapped.portolan.
func (m *Message) EncodeOCSF() ([]byte, error) {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false) // as in Encode
	if err := e.Encode(m.ocsf()); err != nil {
		return nil, fmt.Errorf("encode hit %s as OCSF: %w", m.Portolan.HitID, err)
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

func (m *Message) ocsf() *ocsfFinding {
	p := &m.Portolan
	f := &ocsfFinding{
		CategoryUID: 2, CategoryName: "Findings",
		ClassUID: 2004, ClassName: "Detection Finding",
		Time:      m.Timestamp.UnixMilli(),
		StartTime: p.Lookup.Time.UnixMilli(),
		EndTime:   m.Timestamp.UnixMilli(),
		StatusID:  1, Status: "New",
		IsAlert: m.Event.Kind == "alert",
		Message: m.Message,
		Metadata: ocsfMetadata{
			Version:        ocsfVersion,
			Product:        ocsfProduct{Name: m.Observer.Product, VendorName: m.Observer.Vendor, Version: m.Observer.Version},
			UID:            m.Event.ID,
			CorrelationUID: p.HitID,
			LogName:        m.Event.Dataset,
			LogProvider:    m.Observer.Name,
			OriginalTime:   m.Timestamp.UTC().Format(time.RFC3339Nano),
			Sequence:       p.Sequence,
		},
		FindingInfo: ocsfFindingInfo{
			UID:    p.HitID,
			Title:  m.Rule.Category + ": " + m.Rule.Name,
			Desc:   m.Message,
			Types:  []string{m.Rule.Category},
			SrcURL: m.Rule.Reference,
			Analytic: ocsfAnalytic{
				TypeID: 1, Type: "Rule", UID: m.Rule.ID, Name: m.Rule.Name, Category: m.Rule.Category, Desc: m.Rule.Description,
				Version: m.Rule.Version,
			},
			Attacks: []ocsfAttack{{
				Version:      attackVersion,
				Tactic:       ocsfRefOf(m.Threat.Tactic),
				Technique:    ocsfRefOf(m.Threat.Technique.ThreatRef),
				SubTechnique: ocsfRefOf(m.Threat.Technique.Subtechnique),
			}},
			CreatedTime:   m.Timestamp.UnixMilli(),
			FirstSeenTime: m.Timestamp.UnixMilli(),
			LastSeenTime:  m.Timestamp.UnixMilli(),
		},
		Evidences: []ocsfEvidence{m.ocsfEvidence()},
		Unmapped:  ocsfUnmapped{p},
	}
	if m.Event.Created != nil {
		f.Metadata.LoggedTime = m.Event.Created.UnixMilli()
		f.FindingInfo.ModifiedTime = f.Metadata.LoggedTime
	}
	f.grade(p)
	f.observe(m)
	return f
}

// grade sets what depends on level, revision and state.
func (f *ocsfFinding) grade(p *Portolan) {
	switch {
	case p.State == stateRetracted:
		f.ActivityID, f.ActivityName = 3, "Close"
		f.StatusID, f.Status = 4, "Resolved"
	case p.Revision == 1:
		f.ActivityID, f.ActivityName = 1, "Create"
	default:
		f.ActivityID, f.ActivityName = 2, "Update"
	}
	f.TypeUID = f.ClassUID*100 + f.ActivityID
	f.TypeName = f.ClassName + ": " + f.ActivityName

	f.SeverityID, f.Severity = 1, "Informational"
	f.Confidence = "Unknown"
	if p.State == stateRetracted {
		return
	}
	switch p.Level {
	case "alert":
		f.SeverityID, f.Severity, f.ConfidenceID, f.Confidence = 4, "High", 3, "High"
	case "watch":
		f.SeverityID, f.Severity, f.ConfidenceID, f.Confidence = 3, "Medium", 2, "Medium"
	case "lead":
		f.SeverityID, f.Severity, f.ConfidenceID, f.Confidence = 2, "Low", 1, "Low"
	}
}

func (m *Message) ocsfEvidence() ocsfEvidence {
	e := ocsfEvidence{
		ConnectionInfo: ocsfConnection{
			Direction: "Unknown", ProtocolNum: 6, ProtocolName: m.Network.Transport, ProtocolVerID: 4, CommunityUID: m.Network.CommunityID,
		},
		SrcEndpoint: ocsfEndpoint{IP: m.Source.IP, Port: m.Source.Port, MAC: strings.ReplaceAll(m.Source.MAC, "-", ":")},
		DstEndpoint: ocsfEndpoint{IP: m.Destination.IP, Port: m.Destination.Port},
	}
	if m.Network.Transport == "udp" {
		e.ConnectionInfo.ProtocolNum = 17
	}
	if m.Network.Type == "ipv6" {
		e.ConnectionInfo.ProtocolVerID = 6
	}
	if m.Network.VLAN != nil {
		e.SrcEndpoint.VLANUID = m.Network.VLAN.ID
	}
	if q := m.DNS.Question; q != nil && q.Name != "" {
		e.Query = &ocsfQuery{Hostname: q.Name, Type: q.Type}
	}
	m.ocsfWho(&e)
	return e
}

// ocsfWho says which process it was, where that is known.
func (m *Message) ocsfWho(e *ocsfEvidence) {
	if p := m.Process; p != nil {
		e.Process = &ocsfProcess{PID: p.PID, Name: p.Name, Path: p.Executable, CommandLine: strings.Join(p.Args, " ")}
		if p.Start != nil {
			e.Process.CreatedTime = p.Start.UnixMilli()
		}
		if p.Executable != "" {
			e.Process.File = &ocsfFile{Name: path.Base(p.Executable), Path: p.Executable, TypeID: 1}
			if p.Hash != nil {
				e.Process.File.Hashes = []ocsfHash{{3, "SHA-256", p.Hash.SHA256}}
			}
		}
		if q := p.Parent; q != nil {
			e.Process.Parent = &ocsfProcess{PID: q.PID, Name: q.Name, Path: q.Executable}
		}
	}
	if m.User != nil {
		e.Actor = &ocsfActor{ocsfUser{m.User.ID, m.User.Name}}
	}
	if c := m.Container; c != nil {
		e.Container = &ocsfContainer{c.ID, c.Name}
	}
	if h := m.Host; h != nil {
		e.Device = &ocsfDevice{UID: h.ID, Hostname: h.Name}
	}
}

// observe lists what an analyst pivots on, with the OCSF observable types.
func (f *ocsfFinding) observe(m *Message) {
	add := func(name string, id int, kind, value string) {
		if value != "" {
			f.Observables = append(f.Observables, ocsfObservable{name, id, kind, value})
		}
	}
	e := &f.Evidences[0]
	add("evidences[0].src_endpoint.ip", 2, "IP Address", e.SrcEndpoint.IP.String())
	add("evidences[0].src_endpoint.mac", 3, "MAC Address", e.SrcEndpoint.MAC)
	add("evidences[0].dst_endpoint.ip", 2, "IP Address", e.DstEndpoint.IP.String())
	add("evidences[0].dst_endpoint.port", 11, "Port", fmt.Sprint(e.DstEndpoint.Port))
	if e.Query != nil {
		add("evidences[0].query.hostname", 1, "Hostname", e.Query.Hostname)
	}
	if e.Process != nil {
		add("evidences[0].process.name", 9, "Process Name", e.Process.Name)
		if f := e.Process.File; f != nil && len(f.Hashes) > 0 {
			add("evidences[0].process.file.hashes[0].value", 8, "Hash", f.Hashes[0].Value)
		}
	}
	if a := m.Portolan.Lookup.Answer; a.IsValid() {
		add("unmapped.portolan.lookup.answer", 2, "IP Address", a.String())
	}
}

func ocsfRefOf(t ThreatRef) (r ocsfRef) {
	if len(t.ID) > 0 {
		r.UID = t.ID[0]
	}
	if len(t.Name) > 0 {
		r.Name = t.Name[0]
	}
	if len(t.Reference) > 0 {
		r.SrcURL = t.Reference[0]
	}
	return r
}
